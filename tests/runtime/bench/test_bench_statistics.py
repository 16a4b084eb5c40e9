"""Percentiles and trimmed means against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import trim_mean

from s2p_runtime.bench import summarize


@pytest.mark.parametrize("count", [*range(1, 31), 99, 100, 101, 1000])
def test_summary_is_numpys_and_scipys(count: int) -> None:
    samples = np.random.default_rng(count).lognormal(size=count)
    summary = summarize(samples.tolist())
    assert summary is not None and summary.count == count
    for percent in (50, 90, 99):
        # The inverse of the distribution function is the nearest rank.
        assert getattr(summary, f"p{percent}") == np.percentile(samples, percent, method="inverted_cdf")
    # Sums of at most 1000 doubles in another order.
    assert summary.trimmed_mean == pytest.approx(trim_mean(samples, 0.1), rel=1000 * 2.0**-53)


def test_nothing_has_no_summary() -> None:
    assert summarize([]) is None
