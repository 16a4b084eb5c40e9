"""Programs of a bundle, as its manifest describes them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from s2p_runtime.contract import Contract

TARGET_PATTERN = r"^[a-z][a-z0-9-]*$"
"""Names of targets: what programs are written for. Readers know the form of these names only, hosts their own one."""


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
