"""k-means in one dimension, and the widths of palettes by the output's PSNR."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from s2p_converters.grids import Palette

MAX_ITERATIONS = 300
Floats = NDArray[np.float64]


class SortedValues:
    """Values in ascending order with running sums, so that a round of k-means costs k binary searches."""

    def __init__(self, values: Floats) -> None:
        self.values = np.sort(values)
        self._sums = np.concatenate([[0.0], np.cumsum(self.values)])
        self._squares = np.concatenate([[0.0], np.cumsum(self.values**2)])

    def borders(self, centres: Floats) -> NDArray[np.int64]:
        """First index of each cluster and the end, int64 [k + 1], of ascending centres."""
        inner = np.searchsorted(self.values, (centres[1:] + centres[:-1]) / 2)
        return np.concatenate([[0], inner, [len(self.values)]]).astype(np.int64)

    def means(self, borders: NDArray[np.int64], centres: Floats) -> Floats:
        """Mean of each cluster; an empty one keeps its centre."""
        counts = np.diff(borders)
        return np.where(counts > 0, np.diff(self._sums[borders]) / np.maximum(counts, 1), centres)

    def error(self, centres: Floats) -> float:
        """Sum of squared distances to the nearest centre."""
        borders = self.borders(centres)
        sums, squares = np.diff(self._sums[borders]), np.diff(self._squares[borders])
        return float((squares - 2 * centres * sums + centres**2 * np.diff(borders)).sum())


def kmeans(values: Floats, count: int) -> Floats:
    """Centres of k-means (Lloyd) on numbers, ascending, float64 [count].

    Two starts, evenly over the quantiles and evenly over the range, are run until nothing changes; the better result is kept.
    """
    ordered = SortedValues(values)
    middles = (np.arange(count) + 0.5) / count
    low, high = float(ordered.values[0]), float(ordered.values[-1])
    starts = (np.quantile(ordered.values, middles), low + (high - low) * middles)
    results = [_lloyd(ordered, start) for start in starts]
    return min(results, key=ordered.error)


def _lloyd(ordered: SortedValues, centres: Floats) -> Floats:
    borders = ordered.borders(centres)
    for _ in range(MAX_ITERATIONS):
        centres = np.sort(ordered.means(borders, centres))
        moved = ordered.borders(centres)
        if np.array_equal(moved, borders):
            break
        borders = moved
    return centres


def palettize_weight(weight: NDArray[np.float32], bits: int) -> Palette:
    """One palette for a weight [C_out, ...]; centres are rounded to float16 before weights choose the nearest."""
    flat = weight.astype(np.float64).reshape(-1)
    entries = kmeans(flat, 1 << bits).astype(np.float16)
    exact = entries.astype(np.float64)
    indices = np.searchsorted((exact[1:] + exact[:-1]) / 2, flat)
    return Palette(bits, indices.astype(np.uint8).reshape(weight.shape), entries[None])


def widths_by_psnr(
    psnr: Mapping[str, Mapping[int, float]], weights: Mapping[str, int], candidates: Sequence[int], average: float
) -> dict[str, int]:
    """Every layer gets the narrowest palette with which the output's PSNR stays at or over one threshold; the threshold is the
    highest that keeps the average within the budget.

    Args:
        psnr: layer -> width -> PSNR of the output in dB when that layer alone is palettized.
        weights: layer -> number of weights.
        candidates: widths, ascending.
        average: bits per weight, at least the narrowest candidate.

    Returns:
        layer -> width; the widest candidate where none reaches the threshold.
    """

    def chosen(threshold: float) -> dict[str, int]:
        return {
            name: next((bits for bits in candidates if values[bits] >= threshold), candidates[-1])
            for name, values in psnr.items()
        }

    total = sum(weights.values())
    best = dict.fromkeys(psnr, candidates[0])
    thresholds = sorted({value for values in psnr.values() for value in values.values()} | {math.inf})
    low, high = 0, len(thresholds) - 1
    # The average grows with the threshold, so the last that fits is found by halving.
    while low <= high:
        middle = (low + high) // 2
        widths = chosen(thresholds[middle])
        if sum(widths[name] * weights[name] for name in widths) <= average * total * (1 + 1e-12):
            best, low = widths, middle + 1
        else:
            high = middle - 1
    return best
