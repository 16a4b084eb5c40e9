"""Estimators by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from s2p_converters.core.graph import LayerSpec
from s2p_mobile.quantize.sensitivity.candidates import Candidates
from s2p_mobile.quantize.sensitivity.samples import CallSample
from s2p_mobile.quantize.stages import Passes, Stage
from s2p_runtime.progress import Progress
from s2p_runtime.registry import Registry


@dataclass(frozen=True, eq=False)
class Measurement:
    """What an estimator works on.

    Attributes:
        unet: FP graph, called as ``unet(sample, step, embedding)``; unchanged afterwards.
        weights: weight of every layer to rank, by layer name.
        rounded: the same layers at every bit-width wanted.
        samples: calls on the FP trajectory.
        signal: mean of ``|f|^2`` over the samples; results are given in this unit.
        seed: of the random probes.
    """

    unet: nn.Module
    weights: Mapping[str, nn.Parameter]
    rounded: Candidates
    samples: Sequence[CallSample]
    signal: float
    seed: int
    progress: Progress


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


LayerValues = dict[str, dict[int, float]]
"""layer -> bit-width -> sensitivity"""


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
    {name: f"s2p_mobile.quantize.sensitivity.{name}:{name.upper()}" for name in ("fisher", "hutchinson", "sqnr", "gradient")},
)


def one_gradient_a_call(title: str) -> Callable[[Outlook], Sequence[Stage]]:
    """Stages of an estimator that takes one gradient of each call for all layers and bit-widths, under a title."""
    return lambda outlook: (Stage(title, outlook.calls, (outlook.gradients(),)),)
