"""Weights of every layer rounded at every candidate bit-width, kept as integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from s2p_mobile.quantize.grid import quantize_weight, weight_scale


@dataclass(frozen=True, eq=False)
class CandidateWeight:
    """``Q_b(w)`` of one layer: int8 [C_out, ...] times float32 [C_out]. One byte a weight, whatever the bit-width."""

    integers: Tensor
    scale: Tensor

    def value(self) -> Tensor:
        """float32 [C_out, ...]"""
        return self.integers.float() * self.scale.reshape(-1, *([1] * (self.integers.dim() - 1)))

    def error(self, weight: Tensor) -> Tensor:
        """``w - Q_b(w)``"""
        return weight - self.value().to(weight)


def round_weight(weight: Tensor, bits: int, search: str) -> CandidateWeight:
    """Round a weight [C_out, ...] to the symmetric per-channel grid of a recipe."""
    weight = weight.detach().cpu()
    scale = weight_scale(weight, bits, search)
    return CandidateWeight(torch.from_numpy(quantize_weight(weight, scale, bits)), scale)


Candidates = Mapping[str, Mapping[int, CandidateWeight]]
"""layer -> bit-width -> rounded weight"""


def round_candidates(
    weights: Mapping[str, Tensor], bits: Sequence[int], search: str, advance: Callable[[], None] = lambda: None
) -> Candidates:
    """All layers at all bit-widths; ``advance`` is called after each layer."""
    rounded = {}
    for name, weight in weights.items():
        rounded[name] = {width: round_weight(weight, width, search) for width in bits}
        advance()
    return rounded
