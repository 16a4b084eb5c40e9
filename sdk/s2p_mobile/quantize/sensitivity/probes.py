"""Gradients of the U-Net's output against random probes: one backward pass gives ``J^T r`` of every layer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from s2p_converters.core.graph import StepUNet
from s2p_mobile.quantize.sensitivity.samples import CallSample
from s2p_runtime.noise import gaussian

Probe = Callable[[int, tuple[int, ...]], Tensor]
"""(index of the sample, shape of its output) -> probe of that shape"""

# Streams from here on are used by no sampler (stream 0 makes initial latents, i + 1 the noise of call i). With a shared stream
# a probe could be the very noise that the U-Net is asked to find.
_FIRST_STREAM = 2**31


def normal_probe(seed: int) -> Probe:
    """Probes from N(0, 1), another one for each sample."""
    return lambda index, shape: torch.from_numpy(gaussian(seed, shape, _FIRST_STREAM + index))


def rademacher_probe(seed: int) -> Probe:
    """Probes of -1 and 1 with equal chances, another one for each sample."""
    return lambda index, shape: torch.where(torch.from_numpy(gaussian(seed, shape, _FIRST_STREAM + index)) < 0, -1.0, 1.0)


_PROBE_SCALE = 2.0**-6
"""Of probes on their way back, undone afterwards: gradients of a half-precision network stay far from its largest number."""


def probe_gradients(
    unet: StepUNet,
    weights: Mapping[str, nn.Parameter],
    sample: CallSample,
    probe: Callable[[tuple[int, ...]], Tensor],
    see: Callable[[str, Tensor], None],
) -> None:
    """Show the gradient of ``<f(w), r>`` with respect to each weight, that is ``J^T r``, as soon as the backward pass has it.

    A gradient is let go of before the next one comes, so that a large network's gradients take the memory of one layer's.

    Args:
        unet: FP graph, in inference mode.
        weights: the weights by layer name, parameters of ``unet``; their ``requires_grad`` is as before afterwards.
        sample: one call.
        probe: gives r for the shape of the call's output.
        see: called with a layer's name and gradient, float32 at least, shaped like the weight.
    """

    def hook(name: str) -> Callable[[Tensor], None]:
        def take(parameter: Tensor) -> None:
            gradient = parameter.grad
            assert gradient is not None
            parameter.grad = None
            see(name, gradient.to(torch.promote_types(gradient.dtype, torch.float32)) / _PROBE_SCALE)

        return take

    with torch.enable_grad(), _differentiable(weights.values()):
        handles = [weight.register_post_accumulate_grad_hook(hook(name)) for name, weight in weights.items()]
        try:
            output = sample.observe(unet)
            output.backward(probe(tuple(output.shape)).to(output) * _PROBE_SCALE)
        finally:
            for handle in handles:
                handle.remove()


@contextlib.contextmanager
def _differentiable(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    parameters = list(parameters)
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, flag in zip(parameters, before, strict=True):
            parameter.requires_grad_(flag)
