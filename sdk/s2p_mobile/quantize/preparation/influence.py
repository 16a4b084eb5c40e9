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
from s2p_mobile.quantize.latents import LatentDataset
from s2p_mobile.sources.predictor import Predictor
from s2p_runtime.walker import Walker, guide_runs


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
    conditions = latents.conditions(prompts)
    fp, quantized = Predictor(teacher, conditions), Predictor(student, conditions)
    seeds = [request.seed + prompt for prompt in prompts]
    known = [guide_runs(latents.outputs(prompts, [call] * len(prompts)), guidance) for call in range(latents.calls)]
    original = latents.final(prompts).astype(np.float64)
    gains = np.zeros(latents.calls)
    for call in range(latents.calls):
        walker = Walker.from_seeds(plan, seeds, request.latents.shape)
        walker.run(lambda _, index: known[index], until=call)
        output = guide_runs(quantized(walker.scaled, call), guidance)
        error = float(np.square(output.astype(np.float64) - known[call]).mean())
        walker.advance(output)
        final = walker.run(lambda scaled, index: guide_runs(fp(scaled, index), guidance))
        change = final.astype(np.float64) - original
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
