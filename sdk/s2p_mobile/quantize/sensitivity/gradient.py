"""First-order change of the output."""

from __future__ import annotations

import math

from torch import Tensor

from s2p_mobile.quantize.sensitivity.estimators import Estimator, LayerValues, Measurement, one_gradient_a_call
from s2p_mobile.quantize.sensitivity.probes import Probe, normal_probe

STAGE = "first-order changes"


def gradient(measurement: Measurement) -> LayerValues:
    """Mean over the samples of ``|<dL/dw, w - Q_b(w)>|`` with the loss of :func:`fisher`.

    The inner product is taken before the square, so correlated rounding errors count. In units of the output's amplitude
    (the square root of its energy): a sum over layers bounds the first-order change of the loss.
    """
    return first_order(measurement, normal_probe(measurement.seed))


def first_order(measurement: Measurement, probe: Probe) -> LayerValues:
    """:func:`gradient` with probes of the caller's choice."""
    unit = len(measurement.samples) * math.sqrt(measurement.signal)

    def term(name: str, bits: int, slope: Tensor) -> float:
        return abs(float((slope * measurement.rounded[name][bits].error()).sum())) / unit

    return measurement.sum_over_samples(STAGE, probe, term)


GRADIENT = Estimator("gradient", "first-order change", 64, gradient, one_gradient_a_call(STAGE))
