"""Adam with a learning rate for each kind of parameter, the schedule, and the averaged parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from s2p_mobile.quantize.recipes.training import TrainingRule

BETAS = (0.9, 0.99)
"""Adam's; runs are a few thousand steps, for which 0.999 looks back too far."""

EPSILON = 1e-8
"""Added to the root of the second moment."""

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


def schedule(iteration: int, rule: TrainingRule) -> float:
    """Factor on every learning rate: a linear warm-up, then a cosine from 1 to 0 at the end of the run."""
    warm = min(rule.warmup, rule.iterations - 1)
    if iteration < warm:
        return (iteration + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (iteration - warm) / max(1, rule.iterations - warm)))


class Learner(Protocol):
    """Adam over the learned parameters of a student, and their average; its whole state is a set of named tensors."""

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


def make_learner(parameters: Mapping[str, nn.Parameter], rule: TrainingRule, moments: str) -> Learner:
    """A learner.

    Args:
        moments: ``fp32``: everything in float32, 12 bytes a parameter with averages; ``bf16``: 6 bytes.
    """
    return (CompactLearner if moments == "bf16" else ExactLearner)(parameters, rule)


def average_decay(iteration: int, decay: float) -> float:
    """Of the averages after optimizer step ``iteration``: rises from 0.1, so that the start is forgotten soon."""
    return min(decay, (1 + iteration) / (10 + iteration))


class ExactLearner:
    """torch's Adam and averages in float32."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], rule: TrainingRule) -> None:
        self.parameters, self.rule = dict(parameters), rule
        groups = _by_kind(self.parameters)
        self.peaks = [getattr(rule.learning_rates, kind) for kind in groups]
        fused = next(iter(self.parameters.values())).device.type in ("cpu", "cuda")
        self.adam = torch.optim.Adam(
            [{"params": list(group.values())} for group in groups.values()], lr=0.0, betas=BETAS, eps=EPSILON, fused=fused
        )
        self.averages: dict[str, Tensor] = (
            {} if rule.ema is None else {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        )

    @torch.no_grad()
    def step(self, iteration: int) -> None:
        """See :class:`Learner`."""
        factor = schedule(iteration, self.rule)
        for group, peak in zip(self.adam.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        if self.averages and self.rule.ema is not None:
            share = 1 - average_decay(iteration, self.rule.ema)
            torch._foreach_lerp_(list(self.averages.values()), [value.detach() for value in self.parameters.values()], share)

    def kinds(self, steps: int) -> tuple[str, ...]:
        """See :class:`Learner`."""
        return (*(("average",) if self.averages else ()), *(("first", "second") if steps else ()))

    def tensors(self) -> dict[str, Tensor]:
        """See :class:`Learner`."""
        state = {f"{name}.average": value for name, value in self.averages.items()}
        for name, parameter in self.parameters.items():
            if parameter in self.adam.state:
                moments = self.adam.state[parameter]
                state[f"{name}.first"], state[f"{name}.second"] = moments["exp_avg"], moments["exp_avg_sq"]
        return state

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """See :class:`Learner`."""
        for name, average in self.averages.items():
            if f"{name}.average" in tensors:
                average.copy_(tensors[f"{name}.average"])
            else:
                average.copy_(self.parameters[name] + tensors[f"{name}.distance"].to(average))
        if steps == 0:
            return
        for name, parameter in self.parameters.items():
            self.adam.state[parameter] = {
                "step": torch.tensor(float(steps), device=parameter.device if self.adam.defaults["fused"] else None),
                "exp_avg": tensors[f"{name}.first"].to(parameter).clone(),
                "exp_avg_sq": tensors[f"{name}.second"].to(parameter).clone(),
            }

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

    def __init__(self, parameters: Mapping[str, nn.Parameter], rule: TrainingRule) -> None:
        self.parameters, self.rule = dict(parameters), rule
        self.peaks = {name: getattr(rule.learning_rates, kind_of(name)) for name in self.parameters}
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
        seen, seen_squares = 1 - slow**self.steps, 1 - slower**self.steps
        decay = None if self.rule.ema is None else average_decay(iteration, self.rule.ema)
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            first, second = self.state[f"{name}.first"], self.state[f"{name}.second"]
            mean = first.float().lerp_(parameter.grad.float(), 1 - slow)
            square = second.float().mul_(slower).addcmul_(parameter.grad.float(), parameter.grad.float(), value=1 - slower)
            first.copy_(mean)
            second.copy_(square)
            parameter.grad = None
            change = mean.div_(square.div_(seen_squares).sqrt_().add_(EPSILON)).mul_(-self.peaks[name] * factor / seen)
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


def _by_kind(parameters: Mapping[str, nn.Parameter]) -> dict[str, dict[str, nn.Parameter]]:
    groups: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in parameters.items():
        groups.setdefault(kind_of(name), {})[name] = parameter
    return groups
