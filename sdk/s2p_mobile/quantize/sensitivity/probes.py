"""Gradients of the U-Net's output against random probes: one backward pass gives ``J^T r`` of every layer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

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


def probe_gradients(
    unet: nn.Module, weights: Mapping[str, nn.Parameter], samples: Sequence[CallSample], probe: Probe
) -> Iterator[dict[str, Tensor]]:
    """For every sample by itself, the gradient of ``<f(w), r>`` with respect to each weight, that is ``J^T r``.

    Args:
        unet: FP graph, in inference mode.
        weights: the weights by layer name, parameters of ``unet``; their ``requires_grad`` is as before afterwards.
        samples: one gradient each, never averaged.
        probe: gives r.

    Yields:
        layer -> gradient, shaped like the weight.
    """
    parameters = list(weights.values())
    for index, sample in enumerate(samples):
        with torch.enable_grad(), _differentiable(parameters):
            output = sample.observe(unet)
            gradients = torch.autograd.grad(output, parameters, probe(index, tuple(output.shape)).to(output))
        yield dict(zip(weights, gradients, strict=True))


@contextlib.contextmanager
def _differentiable(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, flag in zip(parameters, before, strict=True):
            parameter.requires_grad_(flag)
