"""Noticing that training goes wrong, and finding out where it began."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from s2p_converters.core.graph import StepUNet
from s2p_mobile.quantize.recipes.training import GuardRule
from s2p_runtime.errors import CheckFailed

_FAR = 10.0
"""RMS error of a layer's output, in units of its FP RMS, from which the layer counts as gone."""


class Diverged(CheckFailed):
    """Training was stopped; the last good state is kept (exit status 1)."""


class Guard:
    """Watches the loss of every iteration."""

    def __init__(self, rule: GuardRule, history: Iterable[float] = ()) -> None:
        """``history``: losses of earlier iterations, oldest first, when a run is resumed."""
        self.rule = rule
        self.streak = 0
        self._recent: deque[float] = deque(maxlen=rule.window)
        for loss in history:
            self.problem(loss)

    @property
    def healthy(self) -> bool:
        """Whether the last loss was in the usual range, so that a state is worth saving."""
        return self.streak == 0

    def problem(self, loss: float) -> str | None:
        """What is wrong after an iteration with this loss, in words; None while training may go on."""
        if not math.isfinite(loss):
            self.streak += 1
            return f"the loss became {loss}"
        median = statistics.median(self._recent) if self._recent else loss
        if loss > self.rule.factor * median:
            self.streak += 1
        else:
            # Losses of a streak stay out of the median, which they would pull up to themselves.
            self.streak = 0
            self._recent.append(loss)
        if self.streak >= self.rule.patience:
            return f"the loss was above {self.rule.factor:g} times its median {median:.3g} for {self.streak} iterations"
        return None


@dataclass(frozen=True)
class Culprit:
    """Where a forward pass first goes wrong.

    Attributes:
        position: of the layer in the forward order.
        layer: its name.
        call: index of the U-Net call.
        what: in words.
    """

    position: int
    layer: str
    call: int
    what: str


@torch.no_grad()
def first_culprit(
    student: StepUNet, inputs: tuple[Tensor, ...], teacher: StepUNet, fp_inputs: tuple[Tensor, ...], names: Iterable[str]
) -> Culprit:
    """The first layer in forward order, and its first call, whose output is not finite; without one, the first whose error is
    beyond ten times its FP output; without one, the layer of the largest relative error.

    Args:
        inputs: a batch, as :class:`StepUNet` takes it; the calls are [n].
        fp_inputs: the same in the teacher's precision.
        names: layers to look at.
    """
    names = list(names)
    calls = inputs[1]
    reference = _layer_outputs(teacher, fp_inputs, names)
    found = _layer_outputs(student, inputs, names)
    order = [name for name in found if name in reference]
    errors = []
    for name in order:
        fp = reference[name].flatten(1)
        error = (found[name].flatten(1) - fp).square().mean(dim=1).sqrt()
        errors.append(error / fp.square().mean(dim=1).sqrt().clamp(min=1e-12))
    for what, bad in (
        ("is not finite", [~e.isfinite() for e in errors]),
        ("is far from FP", [e > _FAR for e in errors]),
        ("has the largest relative error", [e == torch.stack(errors).max() for e in errors]),
    ):
        for position, rows in enumerate(bad):
            if rows.any():
                return Culprit(position, order[position], int(calls[rows].min()), what)
    raise AssertionError("the largest error is one of the errors")


def _layer_outputs(unet: StepUNet, batch: tuple[Tensor, ...], names: list[str]) -> dict[str, Tensor]:
    """Outputs of the named layers in the order in which they ran."""
    outputs: dict[str, Tensor] = {}
    modules = dict(unet.named_modules())

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            outputs[name] = output.float()

        return hook

    handles = [modules[name].register_forward_hook(keep(name)) for name in names]
    try:
        unet(*batch)
    finally:
        for handle in handles:
            handle.remove()
    return outputs
