"""The evaluation on artists whose every state is known in closed form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2p_mobile.judge.evaluation import EvaluationSource, evaluate
from s2p_mobile.sources.opening import open_model
from s2p_runtime.errors import S2PError
from s2p_runtime.noise import gaussian
from s2p_runtime.plan import PlanCall, SamplingPlan

SHAPE = (1, 1, 4, 4)
GUIDANCE = 3.0
CALLS = 3
PLAIN = ["psnr", "psnr_mean", "ssim"]


class Straight:
    """x_{i+1} = x_i + e_i with a constant output: ``drift`` times the number of letters of its text."""

    def __init__(self, drift: float, batch: int = 4, noise: float = 0.0) -> None:
        self.name, self.drift, self.batch, self.guidance, self.latent_shape = "walker", drift, batch, GUIDANCE, SHAPE
        row = {"input_scale": 1.0, "noise": noise}
        calls = [PlanCall(timestep=float(i), states=((i, 1.0),), outputs=((i, 1.0),), **row) for i in range(CALLS)]
        self.plan = SamplingPlan(
            scheduler="walk", steps=CALLS, prediction_type="epsilon", initial_scale=1.0, calls=tuple(calls)
        )
        self.largest = 0

    def conditions(self, prompts: Sequence[str], negative_prompt: str | None = None) -> tuple[np.ndarray]:
        texts = [text for prompt in prompts for text in ("", prompt)] if self.guidance > 1 else prompts
        return (np.array([len(text) for text in texts], np.float32).reshape(-1, 1, 1),)

    def predict(self, sample: np.ndarray, call: int, embeddings: np.ndarray) -> np.ndarray:
        self.largest = max(self.largest, len(sample))
        return np.ones_like(sample) * np.float32(self.drift) * embeddings.reshape(-1, 1, 1, 1)

    def decode(self, states: np.ndarray) -> np.ndarray:
        """Flat 16 x 16 pictures at the mean of the state over 8."""
        means = states.mean(axis=(1, 2, 3)) / 8
        return np.ones((len(states), 3, 16, 16), np.float32) * means.reshape(-1, 1, 1, 1).astype(np.float32)


def source(drift: float, batch: int = 4, noise: float = 0.0) -> EvaluationSource:
    return EvaluationSource("walk", Straight(drift, batch, noise), Straight(0.0, noise=noise), open_model(None))


def prompts(count: int) -> list[str]:
    return ["p" * (1 + k % 5) for k in range(count)]


def test_latent_psnr_and_psnr_in_closed_form() -> None:
    """After call i the states differ by (i + 1) * guidance * drift * letters; 19 prompts make two shards."""
    drift, seed, texts = 0.01, 7, prompts(19)
    result = evaluate(source(drift), texts, seed=seed, metrics=PLAIN)
    starts = [gaussian(seed + k, SHAPE).astype(np.float64) for k in range(19)]
    for call in range(CALLS):
        errors = [(call + 1) * GUIDANCE * drift * len(text) for text in texts]
        expected = np.median([20 * np.log10(np.ptp(x) / e) for x, e in zip(starts, errors, strict=True)])
        # States of about 1 in float32 hold an error of 0.03 to relative 2e-6, or 2e-5 dB.
        assert result.latent_psnr_db_per_call[call] == pytest.approx(expected, abs=1e-3)
    assert (result.source, result.count, result.seed, result.steps) == ("walk", 19, seed, CALLS)

    def grey(mean: float) -> float:
        return np.rint(np.clip(mean / 16 + 0.5, 0, 1) * 255)

    pairs = [(grey(x.mean()), grey(x.mean() + CALLS * GUIDANCE * drift * len(t))) for x, t in zip(starts, texts, strict=True)]
    decibels = [20 * np.log10(255 / abs(a - b)) if a != b else np.inf for a, b in pairs]
    assert result.metrics["psnr"].value == pytest.approx(np.median(decibels), abs=1e-9)
    assert set(result.metrics) == set(PLAIN)


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_batches_change_nothing(batch: int, noise: float) -> None:
    """Not for samplers with fresh noise either, which draw in batches too."""
    subject = source(0.02, batch, noise)
    result = evaluate(subject, prompts(7), metrics=PLAIN)
    assert result == evaluate(source(0.02, 1, noise), prompts(7), metrics=PLAIN)
    assert isinstance(subject.artist, Straight) and subject.artist.largest == 2 * min(batch, 7)


def test_the_model_itself_is_perfect() -> None:
    result = evaluate(source(0.0), prompts(3), metrics=PLAIN)
    assert result.latent_psnr_db_per_call == (None,) * CALLS
    assert result.metrics["psnr"].value is None and "equal" in str(result.metrics["psnr"].reason)
    assert result.metrics["ssim"].value == pytest.approx(1.0, abs=1e-12)


def test_cached_pictures_give_the_same_figures_and_are_not_drawn_again(tmp_path: Path) -> None:
    first = evaluate(source(0.02), prompts(18), metrics=PLAIN, cache=tmp_path)
    subject = source(0.02)
    assert evaluate(subject, prompts(18), metrics=PLAIN, cache=tmp_path) == first
    assert isinstance(subject.reference, Straight) and subject.reference.largest == 0
    shorter = source(0.02)
    evaluate(shorter, prompts(18), count=16, metrics=PLAIN, cache=tmp_path)
    assert isinstance(shorter.reference, Straight) and shorter.reference.largest == 0


def test_json_is_the_documented_one() -> None:
    document = json.loads(evaluate(source(0.02), prompts(2), metrics=["psnr"]).model_dump_json())
    assert set(document) == {"source", "count", "seed", "steps", "metrics", "latent_psnr_db_per_call"}
    assert set(document["metrics"]) == {"psnr"}
    assert {"value", "network"} <= set(document["metrics"]["psnr"])


def test_grid_holds_fp_quantized_and_difference(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    evaluate(source(0.3), prompts(5), metrics=["psnr"], grid=path, grid_rows=2)
    grid = np.array(Image.open(path)).astype(int)
    assert grid.shape == (16 * 2 + 2, 16 * 3 + 4, 3)
    for row in range(2):
        start = float(gaussian(row, SHAPE).mean())
        moved = start + CALLS * GUIDANCE * 0.3 * (row + 1)
        fp, quantized = (round(float(np.clip(value / 16 + 0.5, 0, 1)) * 255) for value in (start, moved))
        line = grid[row * 18 + 8]
        assert line[8].tolist() == [fp] * 3
        assert line[26].tolist() == [quantized] * 3
        assert line[44].tolist() == [min(255, 4 * abs(quantized - fp))] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count 0 is not positive"),
        ({"count": 4}, "more than the 3 prompts"),
        ({"metrics": ["fidelity"]}, "unknown metric 'fidelity'"),
        ({"seed": -1}, "seed -1 is out of range"),
        ({"seed": 2**64 - 2}, "out of range"),
    ],
)
def test_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(S2PError, match=message):
        evaluate(source(0.0), prompts(3), **options)  # type: ignore[arg-type]


def test_refuses_no_prompts() -> None:
    with pytest.raises(S2PError, match="no prompt to evaluate"):
        evaluate(source(0.0), [])
