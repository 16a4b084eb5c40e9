"""Frechet distance of two sets of features, each taken as a Gaussian, in float64.

``d^2 = |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2))`` (Dowson and Landau, 1982; FID: Heusel et al., NeurIPS 2017).

With factors ``C = F F^T`` the last trace is the sum of the singular values of ``F1^T F2``: their squares are the eigenvalues
of the symmetric product ``F1^T C2 F1``, which are those of ``C1 C2``. So no square root of a nearly singular matrix is taken,
and nothing is added to the diagonal (implementations built on ``scipy.linalg.sqrtm`` add 1e-6 where it fails): with fewer
samples than features the result is the exact distance of the two sample Gaussians. That distance is biased in small samples
(the covariances have rank N - 1), so only figures of equal N may be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.errors import S2PError

Array64 = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian by its mean [D] and a factor [D, R] of its covariance ``factor @ factor.T``, float64."""

    mean: Array64
    factor: Array64

    @classmethod
    def of_samples(cls, samples: NDArray[Any]) -> Gaussian:
        """Sample mean and unbiased sample covariance (divisor N - 1) of samples [N, D].

        Raises:
            S2PError: fewer than two samples, or a sample that is not finite.
        """
        if samples.ndim != 2 or samples.shape[0] < 2:
            raise S2PError("a Frechet distance needs at least two pictures", "give more prompts")
        values = samples.astype(np.float64)
        if not np.isfinite(values).all():
            raise S2PError("a picture has features that are not finite", "look at the pictures with `grid`", "grid")
        mean = values.mean(axis=0)
        centred = (values - mean) / np.sqrt(len(values) - 1)
        if len(values) <= values.shape[1]:
            return cls(mean, centred.T.copy())
        # More samples than features: an equal factor of D columns keeps the later products small.
        return cls(mean, np.linalg.qr(centred).R.T.copy())

    @classmethod
    def of_moments(cls, mean: NDArray[Any], covariance: NDArray[Any]) -> Gaussian:
        """From a mean [D] and a covariance [D, D]; eigenvalues below zero are rounding and count as zero."""
        eigenvalues, vectors = np.linalg.eigh(covariance.astype(np.float64))
        return cls(mean.astype(np.float64), vectors * np.sqrt(np.maximum(eigenvalues, 0.0)))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Squared Frechet (2-Wasserstein) distance, the number that FID reports; never below 0."""
    difference = first.mean - second.mean
    cross = np.linalg.svd(first.factor.T @ second.factor, compute_uv=False).sum()
    traces = np.square(first.factor).sum() + np.square(second.factor).sum()
    return max(0.0, float(difference @ difference + traces - 2.0 * cross))
