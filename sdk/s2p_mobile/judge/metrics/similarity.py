"""Picture against picture: SSIM and PSNR of 8-bit RGB pictures."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from s2p_runtime.errors import S2PError
from s2p_runtime.pictures import psnr_db

Pictures = NDArray[np.uint8]
"""[N, H, W, 3]"""

_WINDOW, _SIGMA = 11, 1.5
_PEAK = 255.0
_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2


def ssim(pictures: Pictures, reference: Pictures) -> NDArray[np.float64]:
    """Structural similarity, float64 [N] (Wang et al., IEEE TIP 2004): mean over the channels and over every place where the
    11 x 11 Gaussian window (sigma 1.5) lies wholly inside the picture. Computed in float64.

    Raises:
        S2PError: pictures smaller than the window.
    """
    if min(pictures.shape[1:3]) < _WINDOW:
        raise S2PError(
            f"SSIM needs pictures of at least {_WINDOW} x {_WINDOW} pixels", "leave ssim out of `metrics`", "metrics"
        )
    offsets = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    window = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    window /= window.sum()

    def blur(x: torch.Tensor) -> torch.Tensor:
        planes = x.flatten(0, 1)[:, None]
        blurred = F.conv2d(F.conv2d(planes, window[None, None, :, None]), window[None, None, None, :])
        return blurred[:, 0].unflatten(0, x.shape[:2])

    a, b = (torch.from_numpy(p.transpose(0, 3, 1, 2).astype(np.float64)) for p in (pictures, reference))
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a.square(), blur(b * b) - mean_b.square()
    covariance = blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a.square() + mean_b.square() + _C1)
    structure = (2 * covariance + _C2) / (var_a + var_b + _C2)
    similarity: NDArray[np.float64] = (luminance * structure).mean(dim=(1, 2, 3)).numpy()
    return similarity


def psnr(pictures: Pictures, reference: Pictures) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB with peak 255, float64 [N]; infinite where two pictures are equal."""
    values = [psnr_db(a, b, peak=_PEAK) for a, b in zip(pictures, reference, strict=True)]
    return np.array([math.inf if value is None else value for value in values])
