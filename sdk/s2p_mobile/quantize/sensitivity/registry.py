"""Estimators by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from s2p_mobile.quantize.sensitivity.rounding import Rounded
from s2p_mobile.quantize.sensitivity.samples import CallSample
from s2p_runtime.errors import S2PError
from s2p_runtime.progress import Progress


@dataclass(frozen=True, eq=False)
class Measurement:
    """What an estimator works on.

    Attributes:
        unet: FP graph, called as ``unet(sample, step, *conditions)``; unchanged afterwards.
        weights: weight of every layer to rank, by layer name.
        rounded: the same layers at every width wanted.
        samples: calls on the FP trajectory.
        signal: mean of ``|f|^2`` over the samples; results are given in this unit.
        seed: of the random probes.
    """

    unet: nn.Module
    weights: Mapping[str, nn.Parameter]
    rounded: Rounded
    samples: Sequence[CallSample]
    signal: float
    seed: int
    progress: Progress


LayerValues = dict[str, dict[int, float]]
"""layer -> width -> sensitivity"""


@dataclass(frozen=True)
class Estimator:
    """A way of measuring sensitivity.

    Attributes:
        title: what it measures, for tables and plots.
        samples: how many calls it looks at unless told otherwise.
        passes: (layers, widths) -> U-Net passes on each call; a backward pass counts as two forward ones.
        run: the measurement itself.
    """

    name: str
    title: str
    samples: int
    passes: Callable[[int, int], int]
    run: Callable[[Measurement], LayerValues]


_ESTIMATORS: dict[str, Estimator] = {}


def one_gradient(layers: int, widths: int) -> int:
    """Passes of an estimator that takes one gradient of each call for all layers and widths."""
    return 3


def register(
    name: str, title: str, samples: int, passes: Callable[[int, int], int] = one_gradient
) -> Callable[[Callable[[Measurement], LayerValues]], Estimator]:
    """Make an estimator available under ``name``."""

    def keep(run: Callable[[Measurement], LayerValues]) -> Estimator:
        _ESTIMATORS[name] = Estimator(name, title, samples, passes, run)
        return _ESTIMATORS[name]

    return keep


def estimator_names() -> list[str]:
    """Names of all estimators."""
    return sorted(_ESTIMATORS)


def estimator(name: str) -> Estimator:
    """An estimator by name.

    Raises:
        S2PError: unknown name (lists what exists).
    """
    if name not in _ESTIMATORS:
        raise S2PError(f"unknown sensitivity estimator {name!r}", f"estimators are {', '.join(estimator_names())}")
    return _ESTIMATORS[name]
