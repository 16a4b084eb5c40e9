"""What a recipe may say."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from s2p_runtime.contract import Contract


def _share(value: object) -> object:
    """``5%`` -> 0.05."""
    if isinstance(value, str) and value.endswith("%"):
        return float(value[:-1]) / 100
    return value


Share = Annotated[float, BeforeValidator(_share), Field(gt=0, le=1)]


class WeightRule(Contract):
    """Symmetric per-channel weight grids."""

    bits: int = Field(ge=2, le=8)
    search: Literal["mse", "absmax"] = "mse"


class ActivationRule(Contract):
    """Symmetric per-tensor activation grids."""

    bits: int | None = Field(default=8, ge=2, le=8, description="null leaves activations in float")
    per_step: bool = Field(default=True, description="one scale per call; false: one scale for all calls")
    search: Literal["mse", "percentile", "absmax"] = "mse"
    percentile: float = Field(default=99.99, gt=50, le=100)


class MixedRule(Contract):
    """The most sensitive layers get more bits."""

    top: Share = Field(description="share of the quantized layers, e.g. 5%")
    bits: int = Field(default=8, ge=2, le=8)
    ranking: Literal["sqnr"] = "sqnr"


class CalibrationRule(Contract):
    """FP runs used to choose activation scales and to rank layers."""

    prompts: int = Field(default=16, ge=1)


class Recipe(Contract):
    """A quantization recipe. Layers are matched by module name with shell patterns (``down_blocks.0.*``)."""

    name: str
    description: str
    weights: WeightRule
    activations: ActivationRule = ActivationRule()
    mixed: MixedRule | None = None
    keep: tuple[str, ...] = Field(default=("conv_in", "conv_out"), description="patterns of layers left in float")
    calibration: CalibrationRule = CalibrationRule()

    def keeps(self, layer: str) -> bool:
        """Whether the recipe leaves this layer in float."""
        return any(fnmatchcase(layer, pattern) for pattern in self.keep)
