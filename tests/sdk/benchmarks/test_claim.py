"""The comparison from one start: its intervals against scipy, and a rehearsal on the tiny model that is interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from claim_page import differences, table
from one_start import ROWS, Claim, Settings
from paired_bootstrap import paired_interval
from s2p_converters.core.checkpoint import open_checkpoint
from s2p_mobile.demo import HELD_OUT_PROMPTS
from s2p_mobile.sources.model import Model


def test_interval_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(30.2, 2, 400), rng.normal(30, 2, 400)
    found = paired_interval([ours], [theirs])
    expected = stats.bootstrap((ours - theirs,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    # Quantiles of 10,000 resamples are off by some hundredths of the mean's standard error, 0.14 here.
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.01)
    assert found.mean == pytest.approx(float((ours - theirs).mean()))


def test_seed_sets_count_by_their_pictures() -> None:
    found = paired_interval([np.full(30, 2.0), np.full(10, 4.0)], [np.zeros(30), np.zeros(10)])
    assert (found.mean, found.low, found.high) == (2.5, 2.5, 2.5) and found.excludes_zero


@pytest.mark.slow
def test_a_rehearsal_goes_on_where_it_was(tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        tmp_path,
        iterations=2,
        accumulate=1,
        count=2,
        seeds=1,
        prompts=4,
        samples=8,
        rounding_iterations=2,
        factor=10_000,
        steps=3,
    )
    claim = Claim(settings, "top5", tiny_model, HELD_OUT_PROMPTS)
    for row in ROWS[:2]:
        claim.draw(row, 0)
    start = (tmp_path / "top5" / "start.pt").stat().st_mtime_ns
    again = Claim(settings, "top5", tiny_model, HELD_OUT_PROMPTS)
    for row in ROWS:
        again.draw(row, 0)
    assert (tmp_path / "top5" / "start.pt").stat().st_mtime_ns == start
    assert len(table([again]).splitlines()) == 2 + len(ROWS)
    assert len(differences([again]).splitlines()) == 2 + 4
    facts = {row: json.loads((tmp_path / "top5" / f"{row.replace(' ', '-')}.json").read_text()) for row in ROWS}
    entries = {row: open_checkpoint(tmp_path / "top5" / row.replace(" ", "-")).manifest.layers for row in ROWS}
    widths = {row: {entry.name: entry.weight_bits for entry in layers} for row, layers in entries.items()}
    assert widths["s2p"] == widths["serial"] == widths["parallel"] == widths["start alone"]
    for name, width in widths["q-diffusion"].items():
        halves = [value for key, value in widths["s2p"].items() if key.startswith(f"{name}.")]
        # Shortcuts of up blocks are whole there.
        assert width == (max(value or 0 for value in halves) if halves else widths["s2p"][name]), name
    assert facts["s2p"]["iterations"] == 2 and facts["serial"]["iterations"] >= 1
