"""First-order change of the output."""

from __future__ import annotations

import math

from s2p_mobile.quantize.sensitivity.estimators import Estimator, LayerValues, Measurement, one_gradient_a_call
from s2p_mobile.quantize.sensitivity.probes import Probe, normal_probe, probe_gradients

STAGE = "first-order changes"


def gradient(measurement: Measurement) -> LayerValues:
    """Mean over the samples of ``|<dL/dw, w - Q_b(w)>|`` with the loss of :func:`fisher`.

    The inner product is taken before the square, so correlated rounding errors count. In units of the output's amplitude
    (the square root of its energy): a sum over layers bounds the first-order change of the loss.
    """
    return first_order(measurement, normal_probe(measurement.seed))


def first_order(measurement: Measurement, probe: Probe) -> LayerValues:
    """:func:`gradient` with probes of the caller's choice."""
    values = {name: dict.fromkeys(rounded, 0.0) for name, rounded in measurement.rounded.items()}
    unit = len(measurement.samples) * math.sqrt(measurement.signal)
    with measurement.progress.stage(STAGE, len(measurement.samples)) as advance:
        for gradients in probe_gradients(measurement.unet, measurement.weights, measurement.samples, probe):
            for name, slope in gradients.items():
                weight = measurement.weights[name].detach()
                for bits, rounded in measurement.rounded[name].items():
                    values[name][bits] += abs(float((slope * rounded.error(weight)).double().sum())) / unit
            advance()
    return values


GRADIENT = Estimator("gradient", "first-order change", 64, gradient, one_gradient_a_call(STAGE))
