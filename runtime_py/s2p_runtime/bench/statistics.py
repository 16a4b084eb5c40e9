"""Summaries of samples, the same in every harness."""

from __future__ import annotations

import math
from collections.abc import Sequence

from s2p_runtime.report import Summary


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Nearest-rank percentile of ascending samples: number ``ceil(percent / 100 * n)``, counted from 1."""
    # In whole numbers, so that no rounding moves the rank.
    return ordered[(percent * len(ordered) + 99) // 100 - 1]


def summarize(samples: Sequence[float]) -> Summary | None:
    """Percentiles, and the mean without the lowest and highest ``floor(n / 10)`` samples; None for no samples."""
    if not samples:
        return None
    ordered = sorted(samples)
    dropped = len(ordered) // 10
    kept = ordered[dropped : len(ordered) - dropped]
    return Summary(
        count=len(ordered),
        p50=percentile(ordered, 50),
        p90=percentile(ordered, 90),
        p99=percentile(ordered, 99),
        trimmed_mean=math.fsum(kept) / len(kept),
    )
