"""Weights of every layer rounded at every candidate bit-width."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from s2p_mobile.quantize.finished import NOTHING_KEPT, FinishedParts
from s2p_mobile.quantize.grid import round_to_grid, weight_scale

_SCALES = "candidate-scales"


@dataclass(frozen=True, eq=False)
class CandidateWeight:
    """``Q_b(w)`` of one layer. Only the scales are kept; values are made when they are asked for, so that a large network at many
    bit-widths takes no memory.

    Attributes:
        weight: float [C_out, ...].
        scale: float32 [C_out].
    """

    weight: Tensor
    scale: Tensor
    bits: int

    def value(self) -> Tensor:
        """float32 [C_out, ...]"""
        column = self.scale.reshape(-1, *([1] * (self.weight.dim() - 1)))
        return round_to_grid(self.weight.float(), column, self.bits).mul_(column)

    def error(self) -> Tensor:
        """``w - Q_b(w)``, float32."""
        return self.value().neg_().add_(self.weight)


def round_weight(weight: Tensor, bits: int, search: str) -> CandidateWeight:
    """Round a weight [C_out, ...] to the symmetric per-channel grid of a recipe."""
    weight = weight.detach()
    return CandidateWeight(weight, weight_scale(weight, bits, search), bits)


Candidates = Mapping[str, Mapping[int, CandidateWeight]]
"""layer -> bit-width -> rounded weight"""


def round_candidates(
    weights: Mapping[str, Tensor],
    bits: Sequence[int],
    search: str,
    advance: Callable[[], None] = lambda: None,
    kept: FinishedParts = NOTHING_KEPT,
) -> Candidates:
    """All layers at all bit-widths; ``advance`` is called after each layer."""
    rounded = {}
    for name, weight in weights.items():
        values = weight.detach()
        found = kept.load(_SCALES, name)
        if found is None or not {str(width) for width in bits} <= found.keys():
            found = {str(width): weight_scale(values, width, search) for width in bits}
            kept.save(_SCALES, name, found)
        rounded[name] = {width: CandidateWeight(values, found[str(width)].to(values.device), width) for width in bits}
        advance()
    return rounded
