"""Hessian trace by Hutchinson's estimator."""

from __future__ import annotations

from s2p_mobile.quantize.sensitivity.estimators import Estimator, LayerValues, Measurement, one_gradient_a_call
from s2p_mobile.quantize.sensitivity.probes import Probe, probe_gradients, rademacher_probe

STAGE = "Hessian traces"


def hutchinson(measurement: Measurement) -> LayerValues:
    """Average Hessian trace times squared rounding error, ``Tr(H_l) / n_l * |w - Q_b(w)|^2`` (HAWQ-V2, arXiv 1911.03852).

    H is the Hessian of half the squared output error against the FP output, at the FP weights; as a share of the output energy.
    """
    traces = hessian_traces(measurement, rademacher_probe(measurement.seed))
    return {
        name: {
            bits: traces[name]
            / weight.numel()
            * float(rounded.error(weight.detach()).double().square().sum())
            / measurement.signal
            for bits, rounded in measurement.rounded[name].items()
        }
        for name, weight in measurement.weights.items()
    }


def hessian_traces(measurement: Measurement, probe: Probe) -> dict[str, float]:
    """``Tr(H_l)`` of every layer, averaged over the samples.

    At the FP weights the error is zero, so H = J^T J exactly. Hutchinson's identity ``Tr(A) = E[r^T A r]`` is applied to J J^T,
    which has the same trace: ``E |J_l^T r|^2``, with r the size of the output. One backward pass serves all layers.
    """
    total = dict.fromkeys(measurement.weights, 0.0)
    with measurement.progress.stage(STAGE, len(measurement.samples)) as advance:
        for gradients in probe_gradients(measurement.unet, measurement.weights, measurement.samples, probe):
            for name, gradient in gradients.items():
                total[name] += float(gradient.double().square().sum())
            advance()
    return {name: value / len(measurement.samples) for name, value in total.items()}


HUTCHINSON = Estimator("hutchinson", "Hessian trace", 64, hutchinson, one_gradient_a_call(STAGE))
