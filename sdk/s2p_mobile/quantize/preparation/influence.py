"""How much an error of one call changes the picture.

A teacher-forced loss sees each call alone, but the calls are not alike: an error of an early call moves everything that follows,
one of a middle call is mostly forgotten, one of the last stays. The measure is taken on the FP model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from s2p_converters.core.graph import StepUNet
from s2p_mobile.quantize.latents import LatentDataset, flat_pooled
from s2p_mobile.quantize.latents.walk import Walk, guide_pairs
from s2p_runtime.plan import SamplingPlan

_Texts = tuple[NDArray[np.float32], torch.Tensor | None]
"""Embeddings [K, B, N, D] and, with SDXL, pooled texts [K, B, P]."""


@torch.no_grad()
def call_influence(
    teacher: StepUNet,
    student: StepUNet,
    latents: LatentDataset,
    prompts: Sequence[int],
    advance: Callable[[], None] = lambda: None,
) -> NDArray[np.float64]:
    """Mean squared change of the final state over the mean squared change of call i's guided output, float64 [T].

    For each call i the FP trajectory is left by the student's own error at that call and goes on with the FP model to the end. That
    is ``T (T - 1) / 2`` FP calls for a prompt. The error is a network's and not white noise, because its low frequencies survive
    later calls better.

    Args:
        teacher, student: FP and quantized graphs.
        prompts: numbers of the set's prompts to measure on.
        advance: called after each call i.
    """
    request = latents.manifest.request
    plan, guidance = request.plan, request.guidance
    texts = (latents.texts(prompts), latents.pooled(prompts))
    spec = request.latents
    shape = (1, spec.channels, spec.height, spec.width)
    seeds = [request.seed + prompt for prompt in prompts]
    known = [guide_pairs(latents.outputs(prompts, [call] * len(prompts)), guidance) for call in range(latents.calls)]
    original = latents.final(prompts).astype(np.float64)
    gains = np.zeros(latents.calls)
    for call in range(latents.calls):
        walk = _walk_to(plan, seeds, shape, known, call)
        output = guide_pairs(_predict(student, walk, texts), guidance)
        error = float(np.square(output.astype(np.float64) - known[call]).mean())
        walk.advance(output)
        change = _finish(walk, teacher, texts, guidance).astype(np.float64) - original
        # A call without any error says nothing; the least weight then, not infinity.
        gains[call] = float(np.square(change).mean()) / error if error > 0 else 0.0
        advance()
    return gains


def call_weights(gains: NDArray[np.float64]) -> torch.Tensor:
    """Weights of the calls in the loss, float32 [T]: the gains, with mean 1. All 1 when nothing was measured."""
    mean = gains.mean()
    if not mean > 0:
        return torch.ones(len(gains))
    return torch.from_numpy(gains / mean).float()


def _walk_to(
    plan: SamplingPlan, seeds: Sequence[int], shape: tuple[int, ...], outputs: Sequence[NDArray[np.float32]], call: int
) -> Walk:
    """A walk whose calls before ``call`` had the FP outputs."""
    walk = Walk(plan, seeds, shape)
    for output in outputs[:call]:
        walk.advance(output)
    return walk


def _finish(walk: Walk, unet: StepUNet, texts: _Texts, guidance: float) -> NDArray[np.float32]:
    """Go on to the end and return the final states, [K, C, H, W]."""
    while walk.call < len(walk.plan.calls):
        walk.advance(guide_pairs(_predict(unet, walk, texts), guidance))
    return walk.state


def _predict(unet: StepUNet, walk: Walk, texts: _Texts) -> NDArray[np.float32]:
    """Raw outputs at the walk's call, [K, B, C, H, W]."""
    device = unet.device
    encoded, pooled = texts
    count, branches = encoded.shape[:2]
    sample = torch.from_numpy(walk.scaled).repeat_interleave(branches, dim=0).to(device)
    inputs = (torch.tensor([walk.call], device=device), torch.from_numpy(encoded).flatten(0, 1).to(device))
    output: NDArray[np.float32] = unet(sample, *inputs, flat_pooled(pooled, device)).cpu().numpy()
    return output.reshape(count, branches, *output.shape[1:])
