"""What a recipe may say."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from s2p_mobile.quantize.byte_count import byte_count
from s2p_mobile.quantize.recipes.baselines import BaselineRule
from s2p_mobile.quantize.recipes.training import TrainingRule
from s2p_runtime.contract import Contract


def _share(value: object) -> object:
    """``5%`` -> 0.05."""
    if isinstance(value, str) and value.endswith("%"):
        return float(value[:-1]) / 100
    return value


def _byte_count(value: object) -> object:
    return byte_count(value) if isinstance(value, str) else value


Share = Annotated[float, BeforeValidator(_share), Field(gt=0, le=1)]
FreeShare = Annotated[float, BeforeValidator(_share), Field(ge=0, lt=1)]
ByteCount = Annotated[int, BeforeValidator(_byte_count), Field(gt=0)]
BitWidth = Annotated[int, Field(ge=2, le=8)]


class WeightRule(Contract):
    """Symmetric per-channel weight grids."""

    bits: int = Field(ge=2, le=8)
    search: Literal["mse", "absmax"] = "mse"


class ActivationRule(Contract):
    """Per-tensor activation grids."""

    bits: int | None = Field(default=8, ge=2, le=8, description="null leaves activations in float")
    per_step: bool = Field(default=True, description="one scale per call; false: one scale for all calls")
    zero_points: bool = Field(
        default=True, description="each layer's grid has a zero point of its own, the same in all calls; false: symmetric grids"
    )
    search: Literal["mse", "percentile", "absmax"] = "mse"
    percentile: float = Field(default=99.99, gt=50, le=100)
    float_share: FreeShare = Field(
        default=0.0,
        description="share of the quantized layers' multiplications, e.g. 7.5%, that may stay in float: those of the layers whose "
        "rounded inputs change the output most",
    )


class MixedRule(Contract):
    """Layers of different bit-widths: either the most sensitive share gets more bits, or a budget decides every layer's bit-width.

    Exactly one of ``top``, ``average_bits`` and ``size`` is given.
    """

    top: Share | None = Field(default=None, description="share of the quantized layers that get ``bits``, e.g. 5%")
    average_bits: float | None = Field(default=None, ge=2, le=8, description="bits per weight over the quantized layers")
    size: ByteCount | None = Field(default=None, description="all weights of the quantized layers, densely packed, e.g. 300MB")
    bits: int = Field(default=8, ge=2, le=8, description="bit-width of the ``top`` layers")
    candidates: tuple[BitWidth, ...] = Field(default=(4, 8), min_length=1, description="bit-widths that a budget chooses from")
    ranking: str = Field(default="fisher", description="sensitivity estimator")
    calls: Literal["uniform", "influence"] = Field(
        default="uniform",
        description="uniform: calls to rank on are spread evenly; influence: a call is looked at the more often the more its error "
        "changes the picture (s2p, adaround and gptq)",
    )

    @field_validator("candidates")
    @classmethod
    def _ascending(cls, candidates: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(candidates)))

    @model_validator(mode="after")
    def _one_rule(self) -> MixedRule:
        if sum(value is not None for value in (self.top, self.average_bits, self.size)) != 1:
            raise ValueError("give exactly one of top, average_bits and size")
        return self


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
    split_shortcuts: bool = Field(
        default=True,
        description="shortcut convolutions of up blocks become two, with grids of their own for the state and for the skip",
    )
    calibration: CalibrationRule = CalibrationRule()
    time: Literal["table", "quantized"] = Field(
        default="table", description="table: precalculated by the FP time path; quantized: by one on the recipe's grids"
    )
    training: TrainingRule = TrainingRule()
    baselines: BaselineRule = BaselineRule()

    def keeps(self, layer: str) -> bool:
        """Whether the recipe leaves this layer in float."""
        return any(fnmatchcase(layer, pattern) for pattern in self.keep)
