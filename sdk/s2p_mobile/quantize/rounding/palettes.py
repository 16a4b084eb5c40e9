"""k-means in one dimension, and the bit-widths of palettes by the output's PSNR."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from s2p_converters.core.graph import LayerSpec
from s2p_converters.core.grids import Palette
from s2p_mobile.quantize.stages import Piece
from s2p_mobile.quantize.stages.weights import weight_pieces

MAX_ITERATIONS = 300
MAX_MOVES = 200
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
    """Centres of k-means on numbers, ascending, float64 [count].

    Lloyd's rounds from three starts: evenly over the quantiles, evenly over the range, and with the density that is best for many
    centres, the cube root of the values' (Panter and Dite, 1951). Each result is improved by moves: two neighbours become one where
    that costs least, and a cluster is halved where that gains most, as long as the error falls. The best is kept.
    """
    ordered = SortedValues(values)
    middles = (np.arange(count) + 0.5) / count
    low, high = float(ordered.values[0]), float(ordered.values[-1])
    if low == high:
        return np.full(count, low)
    counts, edges = np.histogram(ordered.values, bins=4 * count)
    mass = np.concatenate([[0.0], np.cumsum(np.cbrt(counts))])
    starts = (
        np.quantile(ordered.values, middles),
        low + (high - low) * middles,
        np.interp(middles * mass[-1], mass, edges),
    )
    return min((_improved(ordered, start) for start in starts), key=ordered.error)


def _improved(ordered: SortedValues, start: Floats) -> Floats:
    best = _lloyd(ordered, start)
    error = ordered.error(best)
    for _ in range(MAX_MOVES):
        moved = _moved(ordered, best)
        if moved is None:
            break
        moved = _lloyd(ordered, moved)
        if not ordered.error(moved) < error * (1 - 1e-9):
            break
        best, error = moved, ordered.error(moved)
    return best


def _moved(ordered: SortedValues, centres: Floats) -> Floats | None:
    """Centres after the best move; None when no move gains anything at once."""
    borders = ordered.borders(centres)
    counts = np.diff(borders).astype(np.float64)
    pairs = counts[:-1] + counts[1:]
    costs = counts[:-1] * counts[1:] / np.maximum(pairs, 1) * np.diff(centres) ** 2
    # Halved at its mean: the error falls by the spread between the halves.
    middle = np.clip(np.searchsorted(ordered.values, centres), borders[:-1], borders[1:])
    halves = np.append(np.stack([borders[:-1], middle], axis=1).ravel(), borders[-1])
    lower, upper = ordered.means(halves, np.repeat(centres, 2)).reshape(-1, 2).T
    left = (middle - borders[:-1]).astype(np.float64)
    gains = left * (counts - left) / np.maximum(counts, 1) * (upper - lower) ** 2
    for merged in np.argsort(costs)[:4]:
        allowed = gains.copy()
        allowed[merged : merged + 2] = -1
        split = int(allowed.argmax())
        if allowed[split] > costs[merged]:
            joint = (counts[merged] * centres[merged] + counts[merged + 1] * centres[merged + 1]) / max(pairs[merged], 1)
            if pairs[merged] == 0:
                joint = centres[merged]
            kept = np.delete(centres, [merged, merged + 1, split])
            return np.sort(np.concatenate([kept, [joint, lower[split], upper[split]]]))
    return None


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


def palette_pieces(layers: Sequence[LayerSpec], bits: int) -> list[Piece]:
    """:func:`palettize_weight` once for each layer. A part of a large one is timed, since sorting takes most of the time."""
    shapes = [layer.weight_shape for layer in layers]
    return weight_pieces(f"palettes of {bits} bits", shapes, lambda weight: palettize_weight(weight.cpu().numpy(), bits))


def widths_by_psnr(
    psnr: Mapping[str, Mapping[int, float]], weights: Mapping[str, int], candidates: Sequence[int], average: float
) -> dict[str, int]:
    """Every layer gets the narrowest palette with which the output's PSNR stays at or over one threshold; the threshold is the
    highest that keeps the average within the budget.

    Args:
        psnr: layer -> bit-width -> PSNR of the output in dB when that layer alone is palettized.
        weights: layer -> number of weights.
        candidates: bit-widths, ascending.
        average: bits per weight, at least the narrowest candidate.

    Returns:
        layer -> bit-width; the widest candidate where none reaches the threshold.
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
