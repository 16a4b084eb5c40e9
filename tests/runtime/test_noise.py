"""Philox against Random123's published answers, Box-Muller against a scalar computation and the normal distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from s2p_runtime.noise import gaussian, philox4x32

# Random123 1.14, tests/kat_vectors, lines "philox4x32 10": counter, key, expected.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> np.ndarray:
    return np.array([int(word, 16) for word in text.split()], np.uint32)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_known_answers(counter: str, key: str, expected: str) -> None:
    np.testing.assert_array_equal(philox4x32(words(counter), words(key)), words(expected))


def test_philox_treats_every_counter_alone() -> None:
    counters = np.stack([words(counter) for counter, _, _ in KNOWN_ANSWERS])
    together = philox4x32(counters, words("00000000 00000000"))
    np.testing.assert_array_equal(together[0], words(KNOWN_ANSWERS[0][2]))
    assert together.shape == (3, 4) and together.dtype == np.uint32


def scalar_philox(block: int, stream: int, seed: int) -> list[int]:
    """Philox4x32-10 in Python integers, after Salmon et al. 2011, section 3.3, with the counter layout of docs/formats.md."""
    c = [block, 0, stream, 0]
    k = [seed % 2**32, seed // 2**32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 // 2**32 ^ c[1] ^ k[0], p1 % 2**32, p0 // 2**32 ^ c[3] ^ k[1], p0 % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


@pytest.mark.parametrize(("seed", "stream"), [(0, 0), (7, 0), (7, 26), (2**32 + 5, 1), (2**64 - 1, 2**32 - 1)])
def test_gaussian_is_scalar_box_muller(seed: int, stream: int) -> None:
    expected = []
    for block in range(6):
        u = [(word + 0.5) / 2**32 for word in scalar_philox(block, stream, seed)]
        for radius, angle in ((u[0], u[1]), (u[2], u[3])):
            expected += [math.sqrt(-2 * math.log(radius)) * turn(2 * math.pi * angle) for turn in (math.cos, math.sin)]
    found = gaussian(seed, (2, 11), stream)
    assert found.dtype == np.float32 and found.shape == (2, 11)
    # Two double libraries may differ in the last place, which can tip the one rounding to float32: one unit, 2**-23 relative.
    np.testing.assert_allclose(found.reshape(-1), np.array(expected[:22]), rtol=2.0**-23, atol=0)


def test_a_longer_array_begins_with_the_shorter() -> None:
    np.testing.assert_array_equal(gaussian(3, (1000,))[:13], gaussian(3, (13,)))
    assert gaussian(3, (0,)).shape == (0,) and gaussian(3, ()).shape == ()


def test_distribution() -> None:
    count = 200_000
    sample = gaussian(11, (count,)).astype(np.float64)
    assert stats.kstest(sample, "norm").pvalue > 1e-4
    # Five standard errors of the k-th moment of a normal sample: variances 1, 2, 15, 96 over the count.
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((sample**power).mean() - moment) < 5 * math.sqrt(variance / count)
    assert np.abs(sample).max() > 4  # expected number of such among 200,000: 12.7


def test_streams_and_seeds_are_independent() -> None:
    count = 50_000
    series = [gaussian(seed, (count,), stream) for seed, stream in ((5, 0), (5, 1), (6, 0), (5 + 2**32, 0))]
    correlation = np.corrcoef(np.stack(series)) - np.eye(4)
    assert np.abs(correlation).max() < 5 / math.sqrt(count)


@pytest.mark.parametrize(("seed", "stream"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**32)])
def test_out_of_range(seed: int, stream: int) -> None:
    with pytest.raises(ValueError, match="is not in"):
        gaussian(seed, (4,), stream)
