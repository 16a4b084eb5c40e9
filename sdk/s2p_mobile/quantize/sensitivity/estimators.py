"""Estimators by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from s2p_converters.core.graph import LayerSpec, StepUNet
from s2p_mobile.quantize.finished import NOTHING_KEPT, FinishedParts, numbers
from s2p_mobile.quantize.sensitivity.candidates import Candidates
from s2p_mobile.quantize.sensitivity.probes import Probe, probe_gradients
from s2p_mobile.quantize.sensitivity.samples import CallSample
from s2p_mobile.quantize.stages import Passes, Stage
from s2p_runtime.progress import Progress
from s2p_runtime.registry import Registry

LayerValues = dict[str, dict[int, float]]
"""layer -> bit-width -> sensitivity"""


@dataclass(frozen=True, eq=False)
class Measurement:
    """What an estimator works on.

    Attributes:
        unet: FP graph, called as ``unet(sample, step, *conditions)``; unchanged afterwards.
        weights: weight of every layer to rank, by layer name.
        rounded: the same layers at every bit-width wanted.
        samples: calls on the FP trajectory.
        signal: mean of ``|f|^2`` over the samples; results are given in this unit.
        seed: of the random probes.
        kept: where finished parts are kept.
    """

    unet: StepUNet
    weights: Mapping[str, nn.Parameter]
    rounded: Candidates
    samples: Sequence[CallSample]
    signal: float
    seed: int
    progress: Progress
    kept: FinishedParts = NOTHING_KEPT

    def sum_of_parts(self, title: str, parts: Sequence[str], part: Callable[[int], LayerValues]) -> LayerValues:
        """Add up a sensitivity that comes in parts, each kept when it is done.

        Args:
            title: of the progress stage.
            parts: names.
            part: of a position among them: a summand for the layers that it is about.
        """
        total: LayerValues = {name: dict.fromkeys(rounded, 0.0) for name, rounded in self.rounded.items()}
        with self.progress.stage(title, len(parts)) as advance:
            for position, name in enumerate(parts):
                found = self.kept.load(title, name)
                if found is None:
                    made = part(position)
                    found = {
                        layer: numbers([[bits, value] for bits, value in widths.items()]) for layer, widths in made.items()
                    }
                    self.kept.save(title, name, found)
                for layer, rows in found.items():
                    for bits, value in rows.tolist():
                        total[layer][int(bits)] += value
                advance()
        return total

    def sum_over_samples(self, title: str, probe: Probe, term: Callable[[str, int, Tensor], float]) -> LayerValues:
        """Add up, over the samples, ``term(layer, bit-width, gradient)`` of the gradient of one probe each."""

        def part(position: int) -> LayerValues:
            sample = self.samples[position]
            values: LayerValues = {name: {} for name in self.weights}

            def see(name: str, gradient: Tensor) -> None:
                values[name] = {bits: term(name, bits, gradient) for bits in self.rounded[name]}

            probe_gradients(self.unet, self.weights, sample, partial(probe, position), see)
            return values

        return self.sum_of_parts(title, [f"sample-{k}" for k in range(len(self.samples))], part)


@dataclass(frozen=True)
class Outlook:
    """What a measurement is going to look at.

    Attributes:
        layers: to be ranked.
        bits: bit-widths wanted.
        calls: U-Net calls on the FP trajectory.
        branches: samples of a call, two with guidance.
        together: calls that go through the network in one pass, where an estimator takes several.
    """

    layers: Sequence[LayerSpec]
    bits: Sequence[int]
    calls: int
    branches: int
    together: int

    def forward(self, times: int) -> Passes:
        """All calls, ``times`` times over, several in a pass."""
        return Passes(times * self.calls * self.branches, times * -(-self.calls // self.together))

    def gradients(self) -> Passes:
        """Every call by itself, forward and backward."""
        return Passes(self.calls * self.branches, self.calls, backward=True)


@dataclass(frozen=True)
class Estimator:
    """A way of measuring sensitivity.

    Attributes:
        title: what it measures, for tables and plots.
        samples: how many calls it looks at by default.
        run: the measurement itself.
        stages: what :attr:`run` announces and does.
    """

    name: str
    title: str
    samples: int
    run: Callable[[Measurement], LayerValues]
    stages: Callable[[Outlook], Sequence[Stage]]


ESTIMATORS: Registry[Estimator] = Registry(
    "estimator",
    "s2p_mobile.estimators",
    {
        name: f"s2p_mobile.quantize.sensitivity.{name}:{name.upper()}"
        for name in ("fisher", "hutchinson", "sqnr", "linear", "gradient")
    },
)


def one_gradient_a_call(title: str) -> Callable[[Outlook], Sequence[Stage]]:
    """Stages of an estimator that takes one gradient of each call for all layers and bit-widths, under a title."""
    return lambda outlook: (Stage(title, outlook.calls, (outlook.gradients(),)),)
