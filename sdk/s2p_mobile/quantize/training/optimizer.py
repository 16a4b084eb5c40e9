"""Adam with a learning rate for each kind of parameter, the schedule, and the averaged parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from s2p_mobile.quantize.recipes.training import LearningRates, TrainingRule

BETAS = (0.9, 0.99)
"""Adam's; runs are a few thousand steps, for which 0.999 looks back too far."""

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


class Optimizer:
    """Adam over the learned parameters of a student; its whole state is a set of named tensors."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], rule: TrainingRule) -> None:
        self.parameters, self.rule = dict(parameters), rule
        peaks: LearningRates = rule.learning_rates
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.parameters.items():
            groups.setdefault(kind_of(name), []).append(parameter)
        self.peaks = [getattr(peaks, kind) for kind in groups]
        fused = next(iter(self.parameters.values())).device.type in ("cpu", "cuda")
        self.adam = torch.optim.Adam([{"params": group} for group in groups.values()], lr=0.0, betas=BETAS, fused=fused)

    def step(self, iteration: int) -> None:
        """Move the parameters along their gradients, which are cleared."""
        factor = schedule(iteration, self.rule)
        for group, peak in zip(self.adam.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Moments by name; empty before the first step."""
        state = {}
        for name, parameter in self.parameters.items():
            if parameter in self.adam.state:
                moments = self.adam.state[parameter]
                state[f"{name}.first"], state[f"{name}.second"] = moments["exp_avg"], moments["exp_avg_sq"]
        return state

    def restore(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Inverse of :meth:`tensors` after ``steps`` steps."""
        if steps == 0:
            return
        for name, parameter in self.parameters.items():
            self.adam.state[parameter] = {
                "step": torch.tensor(float(steps), device=parameter.device if self.adam.defaults["fused"] else None),
                "exp_avg": tensors[f"{name}.first"].to(parameter.device).clone(),
                "exp_avg_sq": tensors[f"{name}.second"].to(parameter.device).clone(),
            }


class Average:
    """Exponential moving average of the learned parameters."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = dict(parameters), decay
        self.tensors = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """After optimizer step ``iteration``; the decay rises from 0.1 so that the start is forgotten soon."""
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        torch._foreach_lerp_(list(self.tensors.values()), list(self.parameters.values()), 1 - decay)

    @torch.no_grad()
    def put(self) -> None:
        """Copy the averages into the parameters."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.tensors[name])
