"""Diagonal Fisher information, weighted by the squared rounding errors."""

from __future__ import annotations

from torch import Tensor

from s2p_mobile.quantize.sensitivity.estimators import Estimator, LayerValues, Measurement, one_gradient_a_call
from s2p_mobile.quantize.sensitivity.probes import Probe, normal_probe

STAGE = "Fisher information"


def fisher(measurement: Measurement) -> LayerValues:
    """``Omega_l(b)``: mean over the samples of ``sum((dL/dw)^2 (w - Q_b(w))^2)``.

    The loss is the negative log-likelihood of a Gaussian observation of the U-Net's output whose variance is the mean output
    energy. Its gradient at an observation drawn from the model itself is ``J^T r`` with r ~ N(0, I), up to that scale, so Omega
    is the diagonal part of the predicted squared output error, as a share of the output energy (docs/method-sensitivity.md).
    """
    return weighted_fisher(measurement, normal_probe(measurement.seed))


def weighted_fisher(measurement: Measurement, probe: Probe) -> LayerValues:
    """:func:`fisher` with probes of the caller's choice, of zero mean and unit covariance."""
    unit = len(measurement.samples) * measurement.signal

    def term(name: str, bits: int, gradient: Tensor) -> float:
        return float((gradient * measurement.rounded[name][bits].error()).square_().sum()) / unit

    return measurement.sum_over_samples(STAGE, probe, term)


FISHER = Estimator("fisher", "diagonal Fisher", 64, fisher, one_gradient_a_call(STAGE))
