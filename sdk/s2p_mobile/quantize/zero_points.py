"""Activation grids with a zero point: behind SiLU, where nothing lies below -0.28, a symmetric grid wastes half of its integers.

A layer has one zero point for all calls: targets keep it as a constant of the program (Core ML's ``quantize``) or need none at all
(the ends of a range), and with scales of their own the calls lose next to nothing by sharing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from s2p_converters.core.packing import integer_range
from s2p_mobile.quantize.grid import CLIP_RATIOS, snap_activation_scale
from s2p_mobile.quantize.histogram import Histogram, activation_scale, merge, percentile_edge

SHARES = (0.7, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.12, 0.1, 0.08, 0.06, 0.04, 0.02, 0.0)
"""Shares of a grid's integers that may lie below zero; 0.5 is symmetric."""
_COARSE = CLIP_RATIOS[::10]
"""Clipping ratios that suffice to compare zero points."""


@dataclass(frozen=True, eq=False)
class SignedHistogram:
    """Values of a tensor: magnitudes of the negative and of the other ones, in bins of the same range."""

    negative: Histogram
    positive: Histogram

    @property
    def magnitudes(self) -> Histogram:
        """Both together."""
        counts = self.negative.counts + self.positive.counts
        return Histogram(counts, self.positive.reach, max(self.negative.largest, self.positive.largest))


def merge_signed(histograms: Sequence[SignedHistogram]) -> SignedHistogram:
    """All histograms as one, over the longest range."""
    return SignedHistogram(merge([h.negative for h in histograms]), merge([h.positive for h in histograms]))


def zero_point(histograms: Sequence[SignedHistogram], bits: int, search: str = "mse", percentile: float = 99.99) -> int:
    """Zero point with the least squared error over all calls, each with a scale of its own.

    Args:
        histograms: one of each call.
        bits: width of the grid.
        search: how a call's scale is found, as of :func:`~s2p_mobile.quantize.histogram.activation_scale`.
        percentile: used by ``percentile``.

    Returns:
        The integer z of ``x̂ = s (clamp(round(x / s) + z, -2^(b-1), 2^(b-1) - 1) - z)``.
    """
    lowest = integer_range(bits)[0]
    below = sorted({round(share * 2**bits) for share in SHARES}, key=lambda count: abs(count + lowest))
    errors = [sum(_least_error(h, -count, 2**bits - 1 - count, search, percentile) for h in histograms) for count in below]
    # Among equals the most symmetric one, which comes first.
    return lowest + below[errors.index(min(errors))]


def range_scale(histogram: SignedHistogram, zero: int, bits: int, search: str = "mse", percentile: float = 99.99) -> Tensor:
    """Scale of a call on a grid with a zero point; symmetric grids as :func:`~s2p_mobile.quantize.histogram.activation_scale`.

    Returns:
        float32 scalar, positive, snapped.

    Raises:
        ValueError: unknown search.
    """
    if zero == 0:
        return activation_scale(histogram.magnitudes, bits, search, percentile)
    low, high = (end - zero for end in integer_range(bits))
    scales = _candidates(histogram, low, high, search, percentile, CLIP_RATIOS)
    return snap_activation_scale(scales[_errors(histogram, scales, low, high).argmin()])


def _least_error(histogram: SignedHistogram, low: int, high: int, search: str, percentile: float) -> float:
    scales = _candidates(histogram, low, high, search, percentile, _COARSE)
    return float(_errors(histogram, scales, low, high).min())


def _candidates(histogram: SignedHistogram, low: int, high: int, search: str, percentile: float, ratios: Tensor) -> Tensor:
    """Scales to choose among for a range of integers, float32 [R]."""
    edge = percentile_edge(histogram.magnitudes, percentile) if search == "percentile" else float("inf")
    reached = [
        min(side.largest, edge) / abs(end) for side, end in ((histogram.negative, low), (histogram.positive, high)) if end != 0
    ]
    whole = max(reached)
    if whole == 0.0:
        return torch.ones(1)
    return ratios * whole if search == "mse" else torch.tensor([whole])


def _errors(histogram: SignedHistogram, scales: Tensor, low: int, high: int) -> Tensor:
    """Sum of squared rounding errors for each scale, [R]."""
    total = torch.zeros(len(scales))
    for side, sign in ((histogram.negative, -1.0), (histogram.positive, 1.0)):
        values = sign * side.centres
        rounded = torch.clamp(torch.round(values / scales[:, None]), low, high) * scales[:, None]
        total += ((rounded - values).square() * side.counts).sum(dim=1)
    return total
