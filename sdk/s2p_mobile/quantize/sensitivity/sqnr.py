"""Output error of one rounded layer at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from s2p_mobile.quantize.host import square_sum
from s2p_mobile.quantize.sensitivity.estimators import Estimator, LayerValues, Measurement, Outlook
from s2p_mobile.quantize.sensitivity.samples import observe_all
from s2p_mobile.quantize.stages import Stage

STAGE = "rounding one layer at a time"


@torch.no_grad()
def sqnr(measurement: Measurement) -> LayerValues:
    """Noise-to-signal ratio of the output when only one layer's weights are rounded (the inverse of SQNR).

    ``sum |f_q - f|^2 / sum |f|^2`` over all samples. One pass over the samples for each layer and width; ``linear`` comes close to
    it in a small part of the time.
    """
    unet, samples, names = measurement.unet, measurement.samples, list(measurement.weights)
    unit = len(samples) * measurement.signal
    outputs: list[Tensor] = []

    def part(position: int) -> LayerValues:
        name = names[position]
        if not outputs:
            outputs.extend(observe_all(unet, samples))
        parameter, values = measurement.weights[name], {}
        original = parameter.data
        try:
            for bits, rounded in measurement.rounded[name].items():
                parameter.data = rounded.value().to(original)
                found = observe_all(unet, samples)
                values[bits] = sum(square_sum(a - b) for a, b in zip(found, outputs, strict=True)) / unit
        finally:
            parameter.data = original
        return {name: values}

    return measurement.sum_of_parts(STAGE, names, part)


def stages(outlook: Outlook) -> Sequence[Stage]:
    """One pass over all calls as they are, and one for each layer and bit-width."""
    times = 1 + len(outlook.layers) * len(outlook.bits)
    return (Stage(STAGE, len(outlook.layers), (outlook.forward(times),)),)


SQNR = Estimator("sqnr", "noise-to-signal ratio", 8, sqnr, stages)
