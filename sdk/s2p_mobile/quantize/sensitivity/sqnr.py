"""Output error of one rounded layer at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from s2p_mobile.quantize.sensitivity.estimators import Estimator, LayerValues, Measurement, Outlook
from s2p_mobile.quantize.sensitivity.samples import observe_all
from s2p_mobile.quantize.stages import Stage

STAGE = "rounding one layer at a time"


@torch.no_grad()
def sqnr(measurement: Measurement) -> LayerValues:
    """Noise-to-signal ratio of the output when only one layer's weights are rounded (the inverse of SQNR).

    ``sum |f_q - f|^2 / sum |f|^2`` over all samples. One pass over the samples for each layer and width.
    """
    unet, samples = measurement.unet, measurement.samples
    values: LayerValues = {name: {} for name in measurement.weights}
    with measurement.progress.stage(STAGE, len(measurement.weights)) as advance:
        outputs = observe_all(unet, samples)
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


def stages(outlook: Outlook) -> Sequence[Stage]:
    """One pass over all calls as they are, and one for each layer and bit-width."""
    times = 1 + len(outlook.layers) * len(outlook.bits)
    return (Stage(STAGE, len(outlook.layers), (outlook.forward(times),)),)


SQNR = Estimator("sqnr", "noise-to-signal ratio", 8, sqnr, stages)
