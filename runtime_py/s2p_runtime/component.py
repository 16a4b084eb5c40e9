"""Programs of a bundle, as its manifest describes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_serializer, model_validator

from s2p_runtime.contract import Contract

TARGET_PATTERN = r"^[a-z][a-z0-9-]*$"
"""Names of targets: what programs are written for. Readers know the form of these names only, hosts their own one."""


ComputeUnit = Literal["neural-engine", "gpu", "all"]
"""Processors that a program was written for: the Neural Engine, the GPU (each with the CPU for what is left), or all of them."""


class TensorSpec(Contract):
    """One input or output of a component."""

    name: str
    dtype: Literal["float16", "float32", "int32", "int64"]
    shape: tuple[int, ...]


class Component(Contract):
    """One program of the bundle, e.g. ``unet``. ``path`` is a file (.pte) or a folder (.mlpackage) inside the bundle."""

    path: str
    precision: Literal["float16", "float32"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    backend: str = Field(description="what runs it, e.g. 'mlprogram iOS17' or 'xnnpack'")
    compute_unit: ComputeUnit | None = Field(
        default=None, description="processors that it was written for; absent: the engine's own choice"
    )
    chips: dict[str, str] | None = Field(
        default=None,
        min_length=1,
        description="chip to its own file, of a program that is compiled for each; absent: it runs on any",
    )

    @field_validator("compute_unit", "chips", mode="before")
    @classmethod
    def _absent_or_named(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and info.mode == "json":
            raise ValueError("must be left out where there is none")
        return value

    @model_validator(mode="after")
    def _has_path(self) -> Component:
        if self.chips is not None and self.path not in self.chips.values():
            raise ValueError("chips: path is none of its files")
        return self

    @model_serializer(mode="wrap")
    def _without_nothing(self, fields: Callable[[Component], dict[str, Any]]) -> dict[str, Any]:
        """A program that chooses nothing has no such field, so that readers from before it take the manifest."""
        written = fields(self)
        for name in ("compute_unit", "chips"):
            if getattr(self, name) is None:
                del written[name]
        return written
