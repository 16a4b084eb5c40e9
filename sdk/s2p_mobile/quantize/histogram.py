"""Histograms of magnitudes and the activation scales found from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from s2p_converters.core.packing import integer_range
from s2p_mobile.quantize.grid import CLIP_RATIOS, snap_activation_scale
from s2p_mobile.quantize.host import in_double


@dataclass(frozen=True, eq=False)
class Histogram:
    """Magnitudes of a tensor.

    Attributes:
        counts: float32 [BINS], bins of equal width over [0, reach].
        reach: upper end of the last bin.
        largest: the largest magnitude seen, at most ``reach``.
    """

    counts: Tensor
    reach: float
    largest: float

    @property
    def centres(self) -> Tensor:
        """Middle of every bin, float32 [BINS]."""
        bins = self.counts.numel()
        return (torch.arange(bins) + 0.5) * (self.reach / bins)


def halved(counts: Tensor) -> Tensor:
    """The same counts over a range twice as long: neighbours are joined, the upper half is empty."""
    joined = counts.reshape(-1, 2).sum(dim=1)
    return torch.cat([joined, torch.zeros_like(joined)])


def merge(histograms: Sequence[Histogram]) -> Histogram:
    """All histograms as one, over the longest range; a bin's counts go to the bin that holds its centre."""
    reach = max(histogram.reach for histogram in histograms)
    counts = torch.zeros_like(histograms[0].counts)
    for histogram in histograms:
        index = (histogram.centres / reach * counts.numel()).long().clamp(max=counts.numel() - 1)
        counts.index_add_(0, index, histogram.counts)
    return Histogram(counts, reach, max(histogram.largest for histogram in histograms))


def percentile_edge(histogram: Histogram, percentile: float) -> float:
    """Magnitude that this percentage of the values does not exceed, up to a bin."""
    cumulative = in_double(histogram.counts).cumsum(0)
    edge = int(torch.searchsorted(cumulative, cumulative[-1] * percentile / 100)) + 1
    return min(edge * histogram.reach / histogram.counts.numel(), histogram.largest)


def activation_scale(histogram: Histogram, bits: int, search: str = "mse", percentile: float = 99.99) -> Tensor:
    """Scale of a symmetric ``bits``-bit grid.

    Args:
        histogram: magnitudes of the tensor.
        bits: width of the grid.
        search: ``mse`` (least squared error over clipping ratios from 1.0 to 0.3), ``percentile`` of the magnitudes, or ``absmax``.
        percentile: used by ``percentile``.

    Returns:
        float32 scalar, positive, snapped by :func:`snap_activation_scale`.

    Raises:
        ValueError: unknown search.
    """
    high = integer_range(bits)[1]
    if histogram.largest == 0.0:
        return snap_activation_scale(torch.tensor(1.0))
    if search == "mse":
        candidates = CLIP_RATIOS * histogram.largest / high
        centres = histogram.centres
        rounded = torch.clamp(torch.round(centres / candidates[:, None]), max=high) * candidates[:, None]
        errors = ((rounded - centres).square() * histogram.counts).sum(dim=1)
        scale = candidates[errors.argmin()]
    elif search == "percentile":
        scale = torch.tensor(percentile_edge(histogram, percentile) / high)
    elif search == "absmax":
        scale = torch.tensor(histogram.largest / high)
    else:
        raise ValueError(f"unknown search {search!r}")
    return snap_activation_scale(scale)
