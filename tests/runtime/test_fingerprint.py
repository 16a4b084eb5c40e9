"""Moments of constants: correctly rounded sums, by exact arithmetic with fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from s2p_runtime.hosts.coreml.fingerprint import moments

RNG = np.random.default_rng(0)
CASES = {
    "normal": RNG.standard_normal(3000),
    "half": RNG.standard_normal(3000).astype(np.float16),
    "wide": RNG.standard_normal(500) * 10.0 ** RNG.integers(-300, 290, 500),
    "cancelling": np.concatenate([[1e16], RNG.standard_normal(99), [-1e16, 1.0, 1e-16]]),
    "smallest": np.full(77, 5e-324),
    "largest": np.array([1e307, -1e307, 3.0, 2.0**1001]),
    "integers": RNG.integers(-128, 128, (7, 11, 3)),
    "zeros": np.zeros(5),
    "one": np.array([-2.5]),
}


@pytest.mark.parametrize("name", list(CASES))
def test_sums_are_correctly_rounded(name: str) -> None:
    values = CASES[name].reshape(-1).astype(np.float64)
    ratio = (math.sqrt(5) - 1) / 2
    weighted = [value * (1.0 + math.modf(place * ratio)[0]) for place, value in enumerate(values.tolist())]
    # A fraction of integers becomes the nearest double, ties to even: the definition of correct rounding.
    expected = [float(sum(map(Fraction, terms))) for terms in (values.tolist(), weighted)]
    np.testing.assert_array_equal(moments(CASES[name]), expected)


@pytest.mark.parametrize("scale", [1.0, 1e-200])
def test_blocks_add_up(scale: float) -> None:
    values: NDArray[np.float64] = np.random.default_rng(1).standard_normal(200_001) * scale
    position = 1.0 + np.modf(np.arange(values.size, dtype=np.float64) * ((math.sqrt(5) - 1) / 2))[0]
    np.testing.assert_array_equal(moments(values), [math.fsum(values), math.fsum(values * position)])


def test_an_infinity_shows() -> None:
    assert np.isinf(moments(np.array([1.0, np.inf]))).all()
