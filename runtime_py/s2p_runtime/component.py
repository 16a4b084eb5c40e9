"""Programs of a bundle, as its manifest describes them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from s2p_runtime.contract import Contract


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
