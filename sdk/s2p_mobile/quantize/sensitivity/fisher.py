"""Diagonal Fisher information, weighted by the squared rounding errors."""

from __future__ import annotations

import torch

from s2p_mobile.quantize.sensitivity.estimators import Estimator, LayerValues, Measurement, one_gradient_a_call
from s2p_mobile.quantize.sensitivity.probes import Probe, normal_probe, probe_gradients

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
    diagonal = {name: torch.zeros_like(weight) for name, weight in measurement.weights.items()}
    with measurement.progress.stage(STAGE, len(measurement.samples)) as advance:
        for gradients in probe_gradients(measurement.unet, measurement.weights, measurement.samples, probe):
            for name, gradient in gradients.items():
                diagonal[name] += gradient.square()
            advance()
    # The mean over the samples goes in front of the sum over the weights: the rounding error is the same in every sample.
    unit = len(measurement.samples) * measurement.signal
    return {
        name: {
            bits: float((diagonal[name] * rounded.error(weight.detach()).square()).double().sum()) / unit
            for bits, rounded in measurement.rounded[name].items()
        }
        for name, weight in measurement.weights.items()
    }


FISHER = Estimator("fisher", "diagonal Fisher", 64, fisher, one_gradient_a_call(STAGE))
