"""Confidence intervals of differences between two methods on the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean difference and the ends of its percentile interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether all of it lies on one side of 0."""
        return self.low > 0 or self.high < 0

    def words(self, digits: int) -> str:
        """``+0.31 [+0.12, +0.50]``."""
        return f"{self.mean:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


def paired_interval(
    ours: Sequence[NDArray[np.floating]], theirs: Sequence[NDArray[np.floating]], seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Percentile bootstrap of the mean of ``ours - theirs`` (Efron, 1979), picture by picture; each seed set is resampled for
    itself, so that every resample has as many pictures of each.

    Args:
        ours, theirs: a figure of every picture, one array [n] a seed set; the same pictures on both sides.

    Raises:
        ValueError: different numbers of sets or of pictures.
    """
    pairs = [np.asarray(a, np.float64) - np.asarray(b, np.float64) for a, b in zip(ours, theirs, strict=True)]
    rng = np.random.Generator(np.random.PCG64(seed))
    total = sum(len(pair) for pair in pairs)
    sums = np.zeros(resamples)
    for pair in pairs:
        sums += pair[rng.integers(0, len(pair), (resamples, len(pair)))].sum(axis=1)
    low, high = np.quantile(sums / total, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(sum(pair.sum() for pair in pairs) / total), float(low), float(high))
