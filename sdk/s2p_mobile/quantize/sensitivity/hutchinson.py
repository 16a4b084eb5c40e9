"""Hessian trace by Hutchinson's estimator."""

from __future__ import annotations

from s2p_mobile.quantize.sensitivity.estimators import Estimator, LayerValues, Measurement, one_gradient_a_call
from s2p_mobile.quantize.sensitivity.probes import Probe, rademacher_probe

STAGE = "Hessian traces"


def hutchinson(measurement: Measurement) -> LayerValues:
    """Average Hessian trace times squared rounding error, ``Tr(H_l) / n_l * |w - Q_b(w)|^2`` (HAWQ-V2, arXiv 1911.03852).

    H is the Hessian of half the squared output error against the FP output, at the FP weights; as a share of the output energy."""
    traces = hessian_traces(measurement, rademacher_probe(measurement.seed))
    return {
        name: {
            bits: traces[name] / weight.weight.numel() * float(weight.error().square_().sum()) / measurement.signal
            for bits, weight in widths.items()
        }
        for name, widths in measurement.rounded.items()
    }


def hessian_traces(measurement: Measurement, probe: Probe) -> dict[str, float]:
    """``Tr(H_l)`` of every layer, averaged over the samples.

    At the FP weights the error is zero, so H = J^T J exactly. Hutchinson's identity ``Tr(A) = E[r^T A r]`` is applied to J J^T,
    which has the same trace: ``E |J_l^T r|^2``, with r the size of the output. One backward pass serves all layers.
    """
    sums = measurement.sum_over_samples(STAGE, probe, lambda name, bits, gradient: float(gradient.square().sum()))
    # The same whatever the bit-width.
    return {name: next(iter(widths.values())) / len(measurement.samples) for name, widths in sums.items()}


HUTCHINSON = Estimator("hutchinson", "Hessian trace", 64, hutchinson, one_gradient_a_call(STAGE))
