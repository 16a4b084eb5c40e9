"""SSIM and PSNR against scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from s2p_mobile.judge.metrics import psnr, ssim
from s2p_runtime.errors import S2PError


def pair(shape: tuple[int, int] = (40, 33), count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Smooth pictures and noisy copies, noisier from one to the next; the last is half flat, where variances cancel."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    base = 127 + 120 * np.sin(rows / 7 + columns / 5)[..., None] * np.array([1.0, -0.5, 0.25])
    reference = np.repeat(np.rint(base).astype(np.uint8)[None], count, axis=0)
    reference[-1, :, : shape[1] // 2] = 200
    noise = random.normal(size=reference.shape) * np.linspace(2, 40, count)[:, None, None, None]
    return np.clip(reference + noise, 0, 255).astype(np.uint8), reference


def test_ssim_is_scikit_images() -> None:
    pictures, reference = pair()
    expected = [
        structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2
        )
        for a, b in zip(pictures, reference, strict=True)
    ]
    # Both in float64; variances come out as differences of squares up to 65025, so 65025 * 2^-52 over C2 = 58.5.
    np.testing.assert_allclose(ssim(pictures, reference), expected, atol=1e-11)
    assert len({round(value, 2) for value in expected}) == 3


def test_ssim_of_equal_pictures_is_one() -> None:
    reference = pair()[1]
    np.testing.assert_allclose(ssim(reference, reference), 1.0, atol=1e-12)


def test_ssim_of_constants() -> None:
    """No variance at all: only the luminance term is left."""
    a, b, c1 = 50.0, 100.0, (0.01 * 255) ** 2
    flat = [np.full((1, 16, 16, 3), value, np.uint8) for value in (50, 100)]
    np.testing.assert_allclose(ssim(*flat), (2 * a * b + c1) / (a * a + b * b + c1), atol=1e-11)


def test_psnr_is_scikit_images() -> None:
    pictures, reference = pair()
    expected = [peak_signal_noise_ratio(b, a, data_range=255) for a, b in zip(pictures, reference, strict=True)]
    np.testing.assert_allclose(psnr(pictures, reference), expected, rtol=1e-12)


def test_psnr_of_equal_pictures_is_infinite() -> None:
    pictures, reference = pair()
    pictures[1] = reference[1]
    assert [math.isinf(value) for value in psnr(pictures, reference)] == [False, True, False]


def test_ssim_refuses_pictures_smaller_than_its_window() -> None:
    with pytest.raises(S2PError, match="11 x 11"):
        ssim(*pair((10, 40)))
