"""The metrics together: batches add up, identical pictures are perfect, what cannot be measured says why."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import scipy.linalg

from s2p_mobile.judge.metrics import METRIC_NAMES, Missing, Networks, PictureMetrics, check_metrics
from s2p_runtime.errors import S2PError


class Means:
    """Judges that can be followed by hand."""

    name = "mean colours"

    def features(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return pictures.mean(axis=(1, 2)), pictures[:, 0, :2].reshape(len(pictures), -1).astype(np.float32)

    def distances(self, pictures: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return np.abs(pictures.astype(np.float64) - reference).mean(axis=(1, 2, 3))

    def scores(self, pictures: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        return pictures.mean(axis=(1, 2, 3)) + [len(prompt) for prompt in prompts]


NETWORKS = Networks(Means(), Means(), Means())
PROMPTS = [f"prompt {'x' * k}" for k in range(24)]


def pair() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    reference = random.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    return np.clip(reference + random.normal(3, 15, reference.shape), 0, 255).astype(np.uint8), reference


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    difference = first.mean(axis=0) - second.mean(axis=0)
    return float(difference @ difference + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2).real))


def test_figures_of_a_run_fed_in_batches() -> None:
    pictures, reference = pair()
    judge = PictureMetrics(METRIC_NAMES, NETWORKS)
    for start, end in ((0, 5), (5, 6), (6, 24)):
        judge.update(pictures[start:end], reference[start:end], PROMPTS[start:end])
    values = judge.values()
    assert tuple(values) == METRIC_NAMES
    errors = np.square(pictures.astype(float) - reference).mean(axis=(1, 2, 3))
    decibels = 10 * np.log10(255**2 / errors)
    means, lengths = pictures.mean(axis=(1, 2)), np.array([len(prompt) for prompt in PROMPTS])
    corners = [batch[:, 0, :2].reshape(24, -1).astype(float) for batch in (pictures, reference)]
    expected = {
        "fid_to_fp": frechet(means, reference.mean(axis=(1, 2))),
        "sfid_to_fp": frechet(*corners),
        "lpips": np.abs(pictures.astype(float) - reference).mean(),
        "psnr": np.median(decibels),
        "psnr_mean": np.mean(decibels),
        "clip_score": np.mean(means.mean(axis=1) + lengths),
        "clip_score_fp": np.mean(reference.mean(axis=(1, 2, 3)) + lengths),
    }
    assert {name: values[name].value for name in expected} == pytest.approx(expected, rel=1e-6)
    assert expected["psnr"] != pytest.approx(expected["psnr_mean"], rel=1e-5)
    named = {name for name, value in values.items() if value.network == "mean colours"}
    assert named == {"fid_to_fp", "sfid_to_fp", "lpips", "clip_score", "clip_score_fp"}


def test_equal_pictures_are_perfect() -> None:
    _, reference = pair()
    judge = PictureMetrics(METRIC_NAMES, NETWORKS)
    judge.update(reference, reference, PROMPTS)
    values = judge.values()
    # Zero but for the rounding of traces of up to 24 * 100^2 in float64.
    assert values["fid_to_fp"].value == pytest.approx(0, abs=1e-8)
    assert values["sfid_to_fp"].value == pytest.approx(0, abs=1e-8)
    assert values["ssim"].value == pytest.approx(1, abs=1e-12)
    assert values["lpips"].value == 0
    assert values["clip_score"] == values["clip_score_fp"]
    assert values["psnr"].value is None and "equal" in str(values["psnr"].reason)


def test_one_picture_has_no_frechet_distance() -> None:
    pictures, reference = pair()
    judge = PictureMetrics(METRIC_NAMES, NETWORKS)
    judge.update(pictures[:1], reference[:1], PROMPTS[:1])
    values = judge.values()
    assert {name for name, value in values.items() if value.value is None} == {"fid_to_fp", "sfid_to_fp"}
    assert values["fid_to_fp"].reason == "needs at least two pictures"


def test_missing_networks_leave_their_figures_null() -> None:
    pictures, reference = pair()
    none = Missing("install one")
    judge = PictureMetrics(METRIC_NAMES, Networks(none, none, none))
    judge.update(pictures, reference, PROMPTS)
    values = judge.values()
    assert {name for name, value in values.items() if value.value is not None} == {"ssim", "psnr", "psnr_mean"}
    assert values["clip_score"].reason == "install one"


def test_only_what_was_asked_for() -> None:
    pictures, reference = pair()
    judge = PictureMetrics(check_metrics(["psnr", "ssim"]), None)
    judge.update(pictures, reference, PROMPTS)
    assert tuple(judge.values()) == ("ssim", "psnr")


@pytest.mark.parametrize(
    ("names", "message"), [(["psnr", "kid"], "unknown metric 'kid'; metrics are fid_to_fp"), ([], "no metric")]
)
def test_refuses_unknown_metrics(names: list[str], message: str) -> None:
    with pytest.raises(S2PError, match=message):
        check_metrics(names)
