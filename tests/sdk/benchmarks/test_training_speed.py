"""The benchmark of training steps, on a small model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from s2p_mobile.sources.model import Model

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "training_speed.py"


@pytest.mark.slow
def test_a_row_of_each_batch(tiny_model: Model, tmp_path: Path) -> None:
    arguments = ["--batches", "1", "--steps", "1", "--warm-up", "1", "--device", "cpu", "--fp32", "--work", str(tmp_path)]
    command = [sys.executable, str(SCRIPT), str(tiny_model.folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    title, _, heading, rule, *rows = done.stdout.splitlines()
    assert "torch" in title and rule == "| --- | --- | --- | --- |"
    assert heading == "| batch (pairs) | steps per second | samples per second | peak GiB |"
    # A step that failed leaves its reason in place of the figures.
    figures = [re.fullmatch(r"\| (\d+) \| (\S+) \| (\S+) \| (\S+) \|", row) for row in rows]
    assert len(figures) == 1 and figures[0], rows
    batch, steps, samples, peak = map(float, figures[0].groups())
    assert batch == 1 and steps > 0
    # Both branches of the guidance count, and each figure is rounded to three digits, to half a hundredth of itself at most.
    assert abs(samples / steps - 2) < 2 * 2 * 0.005
    # No process that holds torch takes less than 0.1 GiB; the tiny model needs nowhere near 4.
    assert 0.1 < peak < 4
