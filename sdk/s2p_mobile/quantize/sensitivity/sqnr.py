"""Output error of one rounded layer at a time."""

from __future__ import annotations

import torch

from s2p_mobile.quantize.sensitivity.registry import LayerValues, Measurement, register
from s2p_mobile.quantize.sensitivity.samples import observe_all


@register("sqnr", "noise-to-signal ratio", samples=8, passes=lambda layers, widths: 1 + layers * widths)
@torch.no_grad()
def sqnr(measurement: Measurement) -> LayerValues:
    """Noise-to-signal ratio of the output when only one layer's weights are rounded (the inverse of SQNR).

    ``sum |f_q - f|^2 / sum |f|^2`` over all samples. One pass over the samples for each layer and width.
    """
    unet, samples = measurement.unet, measurement.samples
    outputs = observe_all(unet, samples)
    values: LayerValues = {name: {} for name in measurement.weights}
    with measurement.progress.stage("rounding one layer at a time", len(measurement.weights)) as advance:
        for name, parameter in measurement.weights.items():
            original = parameter.data
            try:
                for bits, rounded in measurement.rounded[name].items():
                    parameter.data = rounded.value().to(original)
                    error = sum(
                        float((found - output).double().square().sum())
                        for found, output in zip(observe_all(unet, samples), outputs, strict=True)
                    )
                    values[name][bits] = error / (len(samples) * measurement.signal)
            finally:
                parameter.data = original
            advance()
    return values
