"""Adam with a learning rate for each kind of parameter, the schedule, and the averaged parameters."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from s2p_mobile.quantize.recipes.training import TrainingRule

BETAS = (0.9, 0.99)
"""Adam's; runs are a few thousand steps, for which 0.999 looks back too far."""

EPSILON = 1e-6
"""Added to the root of the second moment, in units of its root mean square over the parameter. Adam's usual 1e-8 is an absolute
number: gradients of a mean over millions of outputs lie below it, and weights nearly stop."""

_SMALLEST = 1e-19
"""Added beside it: the root of float32's smallest number. It keeps parameters without gradients where they are."""

_MAGNIFIED = 2.0**30
"""Moments are those of gradients times this, so that squares of gradients down to 1e-28 are still numbers of float32."""

_RELATIVE = ("biases", "time_tables", "norms")
"""Kinds whose learning rate is relative to the parameter's magnitude."""

_KINDS = {
    "weight": "weights",
    "log_scale": "weight_scales",
    "bias": "biases",
    "log_scales": "activation_scales",
    "time": "time_tables",
    "gain": "norms",
    "shift": "norms",
}


def kind_of(name: str) -> str:
    """Field of :class:`LearningRates` that a learned parameter belongs to."""
    return _KINDS[name.rsplit(".", 1)[1]]


@torch.no_grad()
def units(parameters: Mapping[str, nn.Parameter]) -> dict[str, float]:
    """What the learning rate of each parameter is a multiple of.

    1 for weights and scales, which are learned in steps and as logarithms. For biases, time tables and norms the root mean square of
    the parameter's present values; one below a tenth of the median of its kind, as shifts of zero are, takes that tenth.

    Args:
        parameters: at the start of training, named as :func:`kind_of` expects.
    """
    sizes = {
        name: float(parameter.float().square().mean().sqrt()) for name, parameter in parameters.items() if _is_relative(name)
    }
    by_kind: dict[str, list[float]] = {}
    for name, size in sizes.items():
        by_kind.setdefault(name.rsplit(".", 1)[1], []).append(size)
    least = {kind: statistics.median(values) / 10 for kind, values in by_kind.items()}
    # A kind that is zero in half of its parameters says nothing about how far it may move; 1 is an absolute rate.
    least = {kind: value if value > 0 else 1.0 for kind, value in least.items()}
    return {name: max(sizes[name], least[name.rsplit(".", 1)[1]]) if name in sizes else 1.0 for name in parameters}


def _is_relative(name: str) -> bool:
    return kind_of(name) in _RELATIVE


def schedule(iteration: int, rule: TrainingRule) -> float:
    """Factor on every learning rate: a linear warm-up, then a cosine from 1 to 0 at the end of the run."""
    warm = min(rule.warmup, rule.iterations - 1)
    if iteration < warm:
        return (iteration + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (iteration - warm) / max(1, rule.iterations - warm)))


class Learner(Protocol):
    """Adam over the learned parameters of a student, and their average; its whole state is a set of named tensors.

    Attributes:
        peaks: largest learning rate of each parameter, in its own unit.
    """

    peaks: Mapping[str, float]

    def step(self, iteration: int) -> None:
        """Optimizer step ``iteration`` (0-based): move the parameters along their gradients, then the average after them."""
        ...

    def kinds(self, steps: int) -> tuple[str, ...]:
        """Of the state's tensors after so many steps: there is one of each for every parameter, named ``PARAMETER.KIND``."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The state by name."""
        ...

    def restore(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Go on after so many steps, from a state of either learner."""
        ...

    def put_average(self) -> None:
        """Copy the averages into the parameters; nothing where the recipe averages nothing."""
        ...


def make_learner(
    parameters: Mapping[str, nn.Parameter], rule: TrainingRule, moments: str, sizes: Mapping[str, float] | None = None
) -> Learner:
    """A learner.

    Args:
        moments: ``fp32``: everything in float32, 12 bytes a parameter with averages; ``bf16``: 6 bytes.
        sizes: of :func:`units`, where they were taken of more parameters than these; else of these as they are now.
    """
    sizes = units(parameters) if sizes is None else sizes
    peaks = {name: getattr(rule.learning_rates, kind_of(name)) * sizes[name] for name in parameters}
    return (CompactLearner if moments == "bf16" else ExactLearner)(parameters, rule, peaks)


def average_decay(iteration: int, decay: float) -> float:
    """Of the averages after optimizer step ``iteration``: rises from 0.1, so that the start is forgotten soon."""
    return min(decay, (1 + iteration) / (10 + iteration))


@torch.no_grad()
def _move(mean: Tensor, square: Tensor, rate: float, steps: int) -> Tensor:
    """What Adam adds to a parameter after so many steps: ``-rate m' / (sqrt(v') + EPSILON rms(sqrt(v')))``, m' and v' the moments
    without their bias. It is the same whatever the gradients are multiplied by.

    Args:
        mean, square: moments, float32; ``square`` is used up.
    """
    seen, seen_squares = 1 - BETAS[0] ** steps, 1 - BETAS[1] ** steps
    typical = square.mean().sqrt()
    root = square.sqrt_().add_(typical.mul_(EPSILON).add_(_SMALLEST))
    return torch.div(mean, root, out=root).mul_(-rate * math.sqrt(seen_squares) / seen)


class ExactLearner:
    """Adam and averages in float32."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], rule: TrainingRule, peaks: Mapping[str, float]) -> None:
        self.parameters, self.rule, self.peaks = dict(parameters), rule, peaks
        self.steps = 0
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}
        self.averages: dict[str, Tensor] = (
            {} if rule.ema is None else {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        )

    @torch.no_grad()
    def step(self, iteration: int) -> None:
        """See :class:`Learner`; one parameter after the other, so that a temporary copy exists of one of them only."""
        self.steps += 1
        factor, (slow, slower) = schedule(iteration, self.rule), BETAS
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            gradient = parameter.grad.mul_(_MAGNIFIED)
            if name not in self.moments:
                self.moments[name] = (torch.zeros_like(parameter), torch.zeros_like(parameter))
            first, second = self.moments[name]
            first.lerp_(gradient, 1 - slow)
            second.mul_(slower).addcmul_(gradient, gradient, value=1 - slower)
            parameter.grad = None
            parameter.add_(_move(first, second.clone(), self.peaks[name] * factor, self.steps))
        if self.averages and self.rule.ema is not None:
            share = 1 - average_decay(iteration, self.rule.ema)
            torch._foreach_lerp_(list(self.averages.values()), [value.detach() for value in self.parameters.values()], share)

    def kinds(self, steps: int) -> tuple[str, ...]:
        """See :class:`Learner`."""
        return (*(("average",) if self.averages else ()), *(("first", "second") if steps else ()))

    def tensors(self) -> dict[str, Tensor]:
        """See :class:`Learner`."""
        state = {f"{name}.average": value for name, value in self.averages.items()}
        for name, (first, second) in self.moments.items():
            state[f"{name}.first"], state[f"{name}.second"] = first, second
        return state

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """See :class:`Learner`."""
        for name, average in self.averages.items():
            if f"{name}.average" in tensors:
                average.copy_(tensors[f"{name}.average"])
            else:
                average.copy_(self.parameters[name] + tensors[f"{name}.distance"].to(average))
        self.steps = steps
        if steps == 0:
            return
        for name, parameter in self.parameters.items():
            first, second = (tensors[f"{name}.{kind}"].to(parameter).clone() for kind in ("first", "second"))
            self.moments[name] = (first, second)

    @torch.no_grad()
    def put_average(self) -> None:
        """See :class:`Learner`."""
        for name, average in self.averages.items():
            self.parameters[name].copy_(average)


class CompactLearner:
    """Adam whose moments and averages are kept in bfloat16.

    Both betas and the averages' decay change a number by a hundredth at least, which is more than bfloat16's half unit of a 256th, so
    moments follow; they stop up to a third away from where they would end, which moves a step by a sixth. An average is kept as its
    distance from the parameter, whose rounding error is small beside it.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], rule: TrainingRule, peaks: Mapping[str, float]) -> None:
        self.parameters, self.rule, self.peaks = dict(parameters), rule, peaks
        self.steps = 0
        self.state = {
            f"{name}.{kind}": torch.zeros_like(parameter, dtype=torch.bfloat16)
            for name, parameter in self.parameters.items()
            for kind in self.kinds(0)
        }

    def kinds(self, steps: int) -> tuple[str, ...]:
        """See :class:`Learner`."""
        return ("first", "second") if self.rule.ema is None else ("first", "second", "distance")

    @torch.no_grad()
    def step(self, iteration: int) -> None:
        """See :class:`Learner`; one parameter after the other, so that float32 copies exist of one of them only."""
        self.steps += 1
        factor, (slow, slower) = schedule(iteration, self.rule), BETAS
        decay = None if self.rule.ema is None else average_decay(iteration, self.rule.ema)
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            first, second = self.state[f"{name}.first"], self.state[f"{name}.second"]
            gradient = parameter.grad.float().mul_(_MAGNIFIED)
            mean = first.float().lerp_(gradient, 1 - slow)
            square = second.float().mul_(slower).addcmul_(gradient, gradient, value=1 - slower)
            first.copy_(mean)
            second.copy_(square)
            parameter.grad = None
            change = _move(mean, square, self.peaks[name] * factor, self.steps)
            parameter.add_(change)
            if decay is not None:
                distance = self.state[f"{name}.distance"]
                distance.copy_(distance.float().sub_(change).mul_(decay))

    def tensors(self) -> dict[str, Tensor]:
        """See :class:`Learner`."""
        return dict(self.state)

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """See :class:`Learner`."""
        self.steps = steps
        for key, value in self.state.items():
            name, kind = key.rsplit(".", 1)
            if key in tensors:
                value.copy_(tensors[key])
            elif kind == "distance":
                value.copy_(tensors[f"{name}.average"].to(value.device) - self.parameters[name])

    @torch.no_grad()
    def put_average(self) -> None:
        """See :class:`Learner`."""
        if self.rule.ema is not None:
            for name, parameter in self.parameters.items():
                parameter.add_(self.state[f"{name}.distance"].to(parameter))
