"""A sensitivity estimator that looks at weights alone."""

from __future__ import annotations

from collections.abc import Sequence

from s2p_mobile.quantize.sensitivity import Estimator, LayerValues, Measurement, Outlook
from s2p_mobile.quantize.stages import Stage

STAGE = "comparing weights"


def measure(measurement: Measurement) -> LayerValues:
    """``sum (w - Q_b(w))^2 / sum w^2`` of every layer and bit-width: no picture is looked at."""
    values: LayerValues = {}
    with measurement.progress.stage(STAGE, len(measurement.weights)) as advance:
        for name, weight in measurement.weights.items():
            power = float(weight.detach().double().square().sum())
            rounded = measurement.rounded[name].items()
            values[name] = {bits: float(each.error().double().square().sum()) / power for bits, each in rounded}
            advance()
    return values


def stages(outlook: Outlook) -> Sequence[Stage]:
    """It never runs the network."""
    return (Stage(STAGE, len(outlook.layers)),)


TOY = Estimator("toy", "relative rounding error of the weights", 1, measure, stages)
