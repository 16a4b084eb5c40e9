"""The result of a measurement, and its file format."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import Field, model_validator

from s2p_runtime.contract import Contract, read_contract, write_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.files import atomic_file

SENSITIVITY_FORMAT: Final = "s2p-sensitivity"
SENSITIVITY_VERSION: Final = 1


class LayerSensitivity(Contract):
    """One layer. ``values[k]`` belongs to width ``bits[k]`` of the result."""

    name: str
    weights: int = Field(gt=0, description="number of weights, bias excluded")
    values: tuple[float, ...]


class Sensitivity(Contract):
    """Sensitivity of every quantized layer at every candidate width.

    ``fisher``, ``hutchinson`` and ``sqnr`` are shares of the output energy (noise-to-signal ratios), ``gradient`` is a share of
    the output amplitude. Higher is more sensitive.
    """

    format: Literal["s2p-sensitivity"] = SENSITIVITY_FORMAT
    version: Literal[1] = SENSITIVITY_VERSION
    estimator: str
    model: str
    unet_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scheduler: str
    steps: int = Field(ge=1)
    guidance: float
    embedded_guidance: float | None = Field(description="of a latent consistency model, in its time path; null: none")
    prompts: int = Field(ge=1, description="FP trajectories looked at")
    samples: int = Field(ge=1, description="U-Net calls looked at")
    seed: int = Field(ge=0)
    search: str = Field(description="how weight scales were chosen")
    bits: tuple[int, ...] = Field(min_length=1, description="candidate widths, ascending")
    layers: tuple[LayerSensitivity, ...] = Field(min_length=1, description="in the order in which they run")

    @model_validator(mode="after")
    def _one_value_a_width(self) -> Sensitivity:
        if list(self.bits) != sorted(set(self.bits)):
            raise ValueError("bits are not ascending")
        for layer in self.layers:
            if len(layer.values) != len(self.bits):
                raise ValueError(f"layer {layer.name} has {len(layer.values)} values for {len(self.bits)} widths")
        if len({layer.name for layer in self.layers}) != len(self.layers):
            raise ValueError("a layer occurs twice")
        return self

    def by_layer(self) -> dict[str, dict[int, float]]:
        """layer -> width -> sensitivity, as bit plans take it."""
        return {layer.name: dict(zip(self.bits, layer.values, strict=True)) for layer in self.layers}

    def at(self, bits: int) -> dict[str, float]:
        """layer -> sensitivity at one width.

        Raises:
            S2PError: the width was not measured.
        """
        if bits not in self.bits:
            known = ", ".join(map(str, self.bits))
            raise S2PError(f"sensitivity at {bits} bits was not measured, only at {known}", f"measure again with {bits}")
        column = self.bits.index(bits)
        return {layer.name: layer.values[column] for layer in self.layers}


def write_sensitivity(path: Path, sensitivity: Sensitivity, *, force: bool = False) -> None:
    """Write a result as JSON.

    Raises:
        S2PError: the file exists and ``force`` is false, or the place cannot be written.
    """
    with atomic_file(path, force=force) as scratch:
        write_contract(scratch, sensitivity)


def read_sensitivity(path: Path) -> Sensitivity:
    """Read a result.

    Raises:
        S2PError: not readable, another format, a newer version, or an invalid field.
    """
    return read_contract(path, Sensitivity, SENSITIVITY_FORMAT, SENSITIVITY_VERSION)
