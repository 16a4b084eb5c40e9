"""What a recipe may say about the methods that S2P is compared with (docs/method-baselines.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from s2p_runtime.contract import Contract

LARGEST_RATE = 0.02
"""Scaled learning rates stop here."""


class PaletteRule(Contract):
    """Weight palettes of different bit-widths."""

    average_bits: float | None = Field(
        default=None,
        ge=1,
        le=8,
        description="bits per weight over the quantized layers; null: those of the recipe's other rules",
    )
    candidates: tuple[Annotated[int, Field(ge=2, le=8)], ...] = Field(default=(2, 4, 6, 8), min_length=1)
    samples: int = Field(default=8, ge=1, description="FP calls whose outputs a layer's bit-width is judged by")


class BaselineRule(Contract):
    """Other methods: which operators they quantize, and how much of their published budget they get."""

    operators: Literal["same", "own"] = Field(
        default="same", description="same: the layers this recipe quantizes; own: what the method's authors quantize"
    )
    factor: float = Field(default=20.0, ge=1, description="published iteration counts are divided by this")
    samples: int = Field(default=1024, ge=1, description="U-Net calls that layers are calibrated and reconstructed on, at most")
    learning_rate: float | None = Field(
        default=None, gt=0, description="of AdaRound; null: the published one times the factor, at most 0.02"
    )
    relaxing: bool = Field(default=True, description="pcr: 10-bit activations at the calls in ``relaxed``")
    relaxed: tuple[float, float] | None = Field(
        default=None,
        description="pcr: share of diffusion time, 1 is noise; null: the authors', 0 to 0.2 (the last calls) for SD, "
        "0.8 to 1 for SDXL",
    )
    reconstruction: bool = Field(
        default=False,
        description="ptq4dm: learn the rounding of weights block by block, as its authors' tables were probably made",
    )
    palettes: PaletteRule = PaletteRule()

    def iterations(self, published: int) -> int:
        """A published iteration count, scaled; at least 1."""
        return max(1, round(published / self.factor))

    def rounding_rate(self, published: float) -> float:
        """Learning rate of AdaRound's variables."""
        return min(LARGEST_RATE, published * self.factor) if self.learning_rate is None else self.learning_rate
