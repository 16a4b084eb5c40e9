"""Frechet distance against closed forms, scipy and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from s2p_mobile.judge.metrics import Gaussian, frechet_distance
from s2p_runtime.errors import S2PError

# All in float64: a distance is a difference of traces, each good to about 1e-15 times the trace times the dimension.
ROUNDING = 1e-11


def moments(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return samples.mean(axis=0), np.cov(samples, rowvar=False)


def samples(count: int, width: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, width)) @ random.normal(size=(width, width)) + random.normal(size=width)


def test_agrees_with_scipy_square_root() -> None:
    first, second = samples(300, 12, 1), samples(200, 12, 2)
    (m1, c1), (m2, c2) = moments(first), moments(second)
    root = scipy.linalg.sqrtm(c1 @ c2).real
    expected = (m1 - m2) @ (m1 - m2) + np.trace(c1 + c2 - 2 * root)
    found = frechet_distance(Gaussian.of_samples(first), Gaussian.of_samples(second))
    assert found == pytest.approx(expected, rel=1e-9)  # sqrtm of a product that is not symmetric: condition about 1e5
    assert frechet_distance(Gaussian.of_moments(m1, c1), Gaussian.of_moments(m2, c2)) == pytest.approx(found, rel=1e-9)


def test_fewer_samples_than_features() -> None:
    """The covariances are singular: the trace of the root is then the sum of the roots of the product's eigenvalues."""
    first, second = samples(8, 40, 3), samples(11, 40, 4)
    (m1, c1), (m2, c2) = moments(first), moments(second)
    eigenvalues = np.linalg.eigvals(c1 @ c2)
    # Of 40 eigenvalues only 7 are not zero; the roots of the others are rounding, sqrt(1e-16 * 1e3) each, and are left out.
    largest = np.sort(eigenvalues.real)[-7:]
    expected = (m1 - m2) @ (m1 - m2) + np.trace(c1) + np.trace(c2) - 2 * np.sqrt(largest).sum()
    assert frechet_distance(Gaussian.of_samples(first), Gaussian.of_samples(second)) == pytest.approx(expected, rel=1e-8)


def test_agrees_with_torchmetrics() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    import torch

    first, second = samples(500, 10, 5), samples(500, 10, 6)
    arguments = [torch.from_numpy(value) for pair in (moments(first), moments(second)) for value in pair]
    found = frechet_distance(Gaussian.of_samples(first), Gaussian.of_samples(second))
    assert found == pytest.approx(float(fid._compute_fid(*arguments)), rel=1e-8)


def test_one_dimension() -> None:
    """Two normal distributions on a line: (m1 - m2)^2 + (s1 - s2)^2."""
    first, second = (
        Gaussian.of_moments(np.array([1.0]), np.array([[9.0]])),
        Gaussian.of_moments(np.array([5.0]), np.array([[4.0]])),
    )
    assert frechet_distance(first, second) == pytest.approx(16.0 + 1.0, rel=ROUNDING)


def test_covariances_that_commute() -> None:
    """Independent coordinates: the sum of the squared differences of the standard deviations."""
    one, two = np.array([1.0, 4.0, 0.0]), np.array([9.0, 0.25, 16.0])
    zero = np.zeros(3)
    found = frechet_distance(Gaussian.of_moments(zero, np.diag(one)), Gaussian.of_moments(zero, np.diag(two)))
    assert found == pytest.approx(np.square(np.sqrt(one) - np.sqrt(two)).sum(), rel=ROUNDING)


@pytest.mark.parametrize("count", [9, 400])
def test_shifted_copy_is_the_shift_away(count: int) -> None:
    values = samples(count, 20, 7)
    shift = np.linspace(-1, 1, 20)
    found = frechet_distance(Gaussian.of_samples(values), Gaussian.of_samples(values + shift))
    trace = np.trace(moments(values)[1])
    assert found == pytest.approx(shift @ shift, abs=ROUNDING * trace)


def test_equal_sets_have_distance_zero() -> None:
    values = Gaussian.of_samples(samples(64, 100, 8))
    distance = frechet_distance(values, values)
    assert 0.0 <= distance <= ROUNDING * np.square(values.factor).sum()


@pytest.mark.parametrize(
    ("values", "message"),
    [(np.ones((1, 3)), "at least two pictures"), (np.array([[1.0, np.nan], [0.0, 1.0]]), "not finite")],
)
def test_refuses(values: np.ndarray, message: str) -> None:
    with pytest.raises(S2PError, match=message):
        Gaussian.of_samples(values)
