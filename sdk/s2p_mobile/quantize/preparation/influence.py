"""How much an error of one call changes the picture.

A teacher-forced loss sees each call alone, but the calls are not alike: an error of an early call moves everything that follows,
one of a middle call is mostly forgotten, one of the last stays. The measure is taken on the FP model itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from s2p_converters.core.graph import StepUNet
from s2p_mobile.quantize.finished import NOTHING_KEPT, FinishedParts
from s2p_mobile.quantize.latents import LatentDataset
from s2p_mobile.sources.predictor import Predictor
from s2p_runtime.walker import Walker, guide_runs


@dataclass(frozen=True)
class Networks:
    """The FP and the quantized graph.

    Attributes:
        precision: entered when the quantized one runs.
        samples: that go through them at a time.
    """

    teacher: StepUNet
    student: StepUNet
    precision: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    samples: int = 16


@torch.no_grad()
def call_influence(
    networks: Networks,
    latents: LatentDataset,
    prompts: Sequence[int],
    advance: Callable[[], None] = lambda: None,
    kept: FinishedParts = NOTHING_KEPT,
) -> NDArray[np.float64]:
    """Squared change of the final state over the squared change of call i's guided output, float64 [T]: the geometric mean over the
    prompts, because the gains of single prompts span two decades and a mean would be that of the largest.

    For each call i the FP trajectory is left by the student's own error at that call and goes on with the FP model to the end. That
    is ``T (T - 1) / 2`` FP calls for a prompt. The error is a network's and not white noise, because its low frequencies survive
    later calls better.

    Args:
        prompts: numbers of the set's prompts to measure on.
        advance: called after each call i.
        kept: where finished parts are kept, one for each call and group of prompts.
    """
    together = max(1, networks.samples // latents.branches)
    groups = [prompts[begin : begin + together] for begin in range(0, len(prompts), together)]
    gains = np.zeros(latents.calls)
    for call in range(latents.calls):
        found: list[float] = []
        for group in groups:
            part = f"gains-of-call-{call}-of-prompts-{'-'.join(map(str, group))}"
            numbers = kept.numbers("influence", part, partial(_change, networks, latents, group, call))
            found += _gains(np.reshape(numbers, (2, -1)))
        # A call without any error says nothing; the least weight then, not infinity.
        gains[call] = np.exp(np.mean(np.log(found))) if found else 0.0
        advance()
    return gains


def _gains(changes: NDArray[np.float64]) -> list[float]:
    """Of the prompts that say anything.

    Args:
        changes: squared changes of final states and of outputs, [2, n].
    """
    change, error = changes
    return [float(value) for value in change[(error > 0) & (change > 0)] / error[(error > 0) & (change > 0)]]


def _change(networks: Networks, latents: LatentDataset, prompts: Sequence[int], call: int) -> list[float]:
    """Squared change of each prompt's final state, and behind all of them that of each prompt's guided output at the call."""
    request = latents.manifest.request
    plan, guidance = request.plan, request.guidance
    conditions = latents.conditions(prompts)
    fp, quantized = Predictor(networks.teacher, conditions), Predictor(networks.student, conditions)
    known = [guide_runs(latents.outputs(prompts, [each] * len(prompts)), guidance) for each in range(latents.calls)]
    walker = Walker.from_seeds(plan, [request.seed + prompt for prompt in prompts], request.latents.shape)
    walker.run(lambda _, index: known[index], until=call)
    with networks.precision():
        output = guide_runs(quantized(walker.scaled, call), guidance)
    walker.advance(output)
    final = walker.run(lambda scaled, index: guide_runs(fp(scaled, index), guidance))
    change = final.astype(np.float64) - latents.final(prompts)
    error = output.astype(np.float64) - known[call]
    return [float(np.square(each).sum()) for part in (change, error) for each in part]


def call_weights(gains: NDArray[np.float64]) -> torch.Tensor:
    """Weights of the calls in the loss, float32 [T]: the gains, with mean 1. All 1 when nothing was measured."""
    mean = gains.mean()
    if not mean > 0:
        return torch.ones(len(gains))
    return torch.from_numpy((gains / mean).astype(np.float32))
