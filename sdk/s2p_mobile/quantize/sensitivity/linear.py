"""Output error of one rounded layer at a time, to first order."""

from __future__ import annotations

from torch import Tensor

from s2p_mobile.quantize.sensitivity.estimators import Estimator, LayerValues, Measurement, one_gradient_a_call
from s2p_mobile.quantize.sensitivity.probes import Probe, normal_probe

STAGE = "first-order output errors"


def linear(measurement: Measurement) -> LayerValues:
    """Mean over the samples of ``<dL/dw, w - Q_b(w)>^2`` with the loss of :func:`fisher`.

    With ``dL/dw = J^T r`` and r ~ N(0, I) its expectation is ``|J (w - Q_b(w))|^2``, the squared output error of ``sqnr`` to first
    order: what rounding changes in the layer's output, times what a change there does to the network's output, correlations
    included. One backward pass serves all layers and bit-widths, where ``sqnr`` runs the network for each of them.
    """
    return squared_first_order(measurement, normal_probe(measurement.seed))


def squared_first_order(measurement: Measurement, probe: Probe) -> LayerValues:
    """:func:`linear` with probes of the caller's choice, of zero mean and unit covariance."""
    unit = len(measurement.samples) * measurement.signal

    def term(name: str, bits: int, gradient: Tensor) -> float:
        return float((gradient * measurement.rounded[name][bits].error()).sum()) ** 2 / unit

    return measurement.sum_over_samples(STAGE, probe, term)


LINEAR = Estimator("linear", "noise-to-signal ratio to first order", 64, linear, one_gradient_a_call(STAGE))
