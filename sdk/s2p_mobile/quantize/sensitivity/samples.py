"""U-Net calls on the FP trajectory: what every estimator looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s2p_converters.core.graph import StepUNet
from s2p_mobile.quantize.finished import NOTHING_KEPT, FinishedParts
from s2p_mobile.quantize.host import square_sum
from s2p_mobile.sources.predictor import Array32
from s2p_mobile.sources.trajectory import Prompt, draw_latents
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.progress import Progress, Silent

TRAJECTORIES_STAGE = "drawing FP trajectories to rank on"
_VALUES_AT_A_TIME = 2**14
"""Latent values that go through the U-Net together, if they are of more than one call."""


@dataclass(frozen=True, eq=False)
class CallSample:
    """One U-Net call.

    Attributes:
        call: call index.
        sample: scaled state, float32 [B, C, H, W]; with guidance B is 2 and both entries are equal.
        conditions: what the denoiser is told, float32 [B, ...] each, unconditional first.
        guidance: classifier-free guidance.
    """

    call: int
    sample: Tensor
    conditions: tuple[Tensor, ...]
    guidance: float

    def observe(self, unet: StepUNet) -> Tensor:
        """The guided output ``u + guidance * (c - u)`` of a U-Net on this call, [1, C, H, W]: what the sampler uses."""
        return observe_all(unet, [self])[0]


def observe_all(unet: StepUNet, samples: Sequence[CallSample]) -> list[Tensor]:
    """:meth:`CallSample.observe` of every call. Calls of a small network go through it together, which takes half the time.

    Args:
        samples: all with or all without guidance, of one shape.
    """
    together = calls_together(samples[0].sample.numel())
    observed: list[Tensor] = []
    for begin in range(0, len(samples), together):
        part = samples[begin : begin + together]
        branches = part[0].sample.shape[0]
        steps = torch.tensor([sample.call for sample in part], device=unet.device).repeat_interleave(branches)
        states = torch.cat([sample.sample for sample in part]).to(unet.device, unet.dtype)
        conditions = [
            torch.cat(column).to(unet.device, unet.dtype)
            for column in zip(*(sample.conditions for sample in part), strict=True)
        ]
        for sample, output in zip(part, unet(states, steps, *conditions).split(branches), strict=True):
            if branches == 1:
                observed.append(output)
                continue
            unconditional, conditional = output.chunk(2)
            observed.append(unconditional + sample.guidance * (conditional - unconditional))
    return observed


def calls_together(values: int) -> int:
    """Calls that :func:`observe_all` takes in one pass.

    Args:
        values: numbers of a call's scaled states, of all branches.
    """
    return max(1, _VALUES_AT_A_TIME // values)


def spread_calls(calls: int, count: int, shift: float) -> list[int]:
    """``count`` distinct call indices (all of them when there are fewer), evenly spread; ``shift`` in [0, 1) moves them within
    their intervals, so that several prompts look at different calls."""
    count = min(count, calls)
    return [int((k + shift) * calls / count) for k in range(count)]


def weighted_calls(shares: NDArray[np.float64], count: int, shift: float) -> list[int]:
    """``count`` call indices, a call as often as its share says, in ascending order: evenly spread over the cumulated shares.

    Args:
        shares: of the calls, [T], of sum 1.
        shift: in [0, 1), as of :func:`spread_calls`.
    """
    positions = (np.arange(count) + shift) / count
    found = np.searchsorted(np.cumsum(shares), positions, side="right")
    return [min(int(call), len(shares) - 1) for call in found]


def samples_of(calls: int, prompts: int, count: int) -> tuple[int, int]:
    """Trajectories that :func:`collect_samples` draws from so many prompts, and the calls that it gives, of ``count`` wanted."""
    drawn = min(prompts, count)
    return drawn, drawn * min(calls, -(-count // drawn))


def collect_samples(
    unet: StepUNet,
    plan: SamplingPlan,
    prompts: Sequence[Prompt],
    guidance: float,
    shape: tuple[int, ...],
    count: int,
    progress: Progress | None = None,
    kept: FinishedParts = NOTHING_KEPT,
    shares: NDArray[np.float64] | None = None,
    title: str = TRAJECTORIES_STAGE,
) -> list[CallSample]:
    """Calls of the FP trajectories of several prompts.

    Args:
        unet: FP graph.
        prompts: each is drawn once from its own seed; at most ``count`` of them.
        shape: of the latents, [1, C, H, W].
        count: calls wanted, spread evenly over prompts and over each trajectory. Rounded up to a multiple of the prompts.
        shares: how often each call is looked at, [T]; None: all alike.
        title: of the progress stage.
    """
    used = prompts[:count]
    each = -(-count // len(used))
    samples: list[CallSample] = []
    with (progress or Silent()).stage(title, len(used)) as advance:
        for position, prompt in enumerate(used):
            shift = (position + 0.5) / len(used)
            if shares is None:
                calls = spread_calls(len(plan.calls), each, shift)
            else:
                calls = weighted_calls(shares, min(each, len(plan.calls)), shift)
            conditions = tuple(torch.from_numpy(condition) for condition in prompt.conditions)
            part = f"prompt-{position}-of-{len(used)}-{each}{'' if shares is None else '-weighted'}"
            states = kept.once(title, part, partial(_states, unet, plan, prompt, guidance, shape, set(calls)))
            samples += [CallSample(call, states[f"{call:04d}"], conditions, guidance) for call in calls]
            advance()
    return samples


def _states(
    unet: StepUNet, plan: SamplingPlan, prompt: Prompt, guidance: float, shape: tuple[int, ...], wanted: set[int]
) -> dict[str, Tensor]:
    """Scaled states of one trajectory at some calls: call index, in words -> float32 [B, C, H, W]."""
    states: dict[str, Tensor] = {}

    def keep(call: int, sample: Array32, outputs: Array32) -> None:
        if call in wanted:
            states[f"{call:04d}"] = torch.from_numpy(np.repeat(sample, len(outputs), axis=0))

    draw_latents(unet, plan, prompt, guidance, shape, keep)
    return states


@torch.no_grad()
def mean_signal(unet: StepUNet, samples: Sequence[CallSample], advance: Callable[[], None] = lambda: None) -> float:
    """Mean over the samples of the FP output's energy, ``|f|^2``; ``advance`` is called after each sample."""
    energies = []
    for sample in samples:
        energies.append(square_sum(sample.observe(unet)))
        advance()
    return sum(energies) / len(samples)
