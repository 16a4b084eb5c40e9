"""What rounding one layer's input does to the U-Net's output, to first order, and which inputs are worth leaving in float."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from s2p_converters.core.graph import StepUNet
from s2p_mobile.quantize.knapsack import Choices, solve
from s2p_mobile.quantize.sensitivity.probes import normal_probe
from s2p_mobile.quantize.sensitivity.samples import CallSample
from s2p_mobile.quantize.stages import Passes, Stage
from s2p_runtime.progress import Progress, Silent

TRAJECTORIES_STAGE = "drawing FP trajectories to round inputs on"
STAGE = "first-order errors of rounded inputs"
SAMPLES = 64
"""Calls that are looked at."""
_PROBE_SCALE = 2.0**-6
"""Of probes on their way back, undone afterwards: gradients of a half-precision network stay far from its largest number."""

Rounded = Callable[[str, int, Tensor], Tensor]
"""(layer, call, its input) -> the input on its grid."""


def activation_errors(
    unet: StepUNet,
    samples: Sequence[CallSample],
    names: Sequence[str],
    rounded: Rounded,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Mean over the samples of ``<J^T r, x - Q(x)>^2``: the squared error of the guided output when one layer's input x is rounded.

    J is the output's derivative by that layer's input alone (not by what else is made of the same tensor), r ~ N(0, I): its mean
    is ``|J (x - Q(x))|^2``. One backward pass of each call serves all layers, as for weights (docs/method-sensitivity.md).

    Args:
        unet: FP graph; unchanged afterwards.
        names: layers, modules of ``unet``.
        seed: of the probes.
    """
    modules = dict(unet.named_modules())
    probe, total = normal_probe(seed), dict.fromkeys(names, 0.0)

    def watch(name: str, call: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def before(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            x = inputs[0]
            if not (x.requires_grad and torch.is_grad_enabled()):
                return inputs  # a pass that is run again in the backward pass
            own = x.view_as(x)
            error = (x.detach() - rounded(name, call, x.detach())).float()

            def see(gradient: Tensor) -> None:
                total[name] += float((gradient.float() / _PROBE_SCALE * error).sum()) ** 2 / len(samples)

            own.register_hook(see)
            return (own, *inputs[1:])

        return before

    with (progress or Silent()).stage(STAGE, len(samples)) as advance:
        for position, sample in enumerate(samples):
            handles = [modules[name].register_forward_pre_hook(watch(name, sample.call)) for name in names]
            try:
                with torch.enable_grad():
                    output = _differentiable(sample).observe(unet)
                    output.backward(probe(position, tuple(output.shape)).to(output) * _PROBE_SCALE)
            finally:
                for handle in handles:
                    handle.remove()
            advance()
    return total


def _differentiable(sample: CallSample) -> CallSample:
    """The same call with gradients by its state and conditions, so that every layer's input has one."""
    state, *conditions = (value.clone().requires_grad_(True) for value in (sample.sample, *sample.conditions))
    return replace(sample, sample=state, conditions=tuple(conditions))


def float_inputs(errors: Mapping[str, float], operations: Mapping[str, int], share: float) -> frozenset[str]:
    """The layers whose inputs stay in float: those without which the errors of the others add up to the least, exactly.

    Args:
        errors: of :func:`activation_errors`.
        operations: of each layer in a call, any unit.
        share: of all operations that these layers may have.
    """
    budget = int(share * sum(operations[name] for name in errors))
    items = [Choices([0, operations[name]], [value, 0.0]) for name, value in errors.items()]
    return frozenset(name for name, pick in zip(errors, solve(items, budget).picks, strict=True) if pick)


def activation_error_stage(calls: int, branches: int) -> Stage:
    """What :func:`activation_errors` announces and does on so many calls."""
    return Stage(STAGE, calls, (Passes(calls * branches, calls, backward=True),))
