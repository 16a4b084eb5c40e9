"""Calibration calls: which (prompt, call) pairs of the FP trajectories a method looks at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s2p_mobile.quantize.latents import LatentDataset


@dataclass(frozen=True)
class CalibrationCalls:
    """n samples of U-Net calls; with guidance both texts of a state are samples.

    Attributes:
        samples: scaled states, float32 [n, C, H, W].
        calls: call indices, int64 [n].
        conditions: what the denoiser is told, float32 [n, ...] each.
    """

    samples: Tensor
    calls: Tensor
    conditions: tuple[Tensor, ...]

    @property
    def count(self) -> int:
        """n"""
        return self.samples.shape[0]

    def batches(self, size: int) -> Iterator[CalibrationCalls]:
        """The same samples in pieces of at most ``size``."""
        return (self.part(slice(begin, begin + size)) for begin in range(0, self.count, size))

    def part(self, chosen: slice) -> CalibrationCalls:
        """Some of the samples."""
        conditions = tuple(condition[chosen] for condition in self.conditions)
        return CalibrationCalls(self.samples[chosen], self.calls[chosen], conditions)


def read_calls(latents: LatentDataset, prompts: Sequence[int], calls: Sequence[int], device: torch.device) -> CalibrationCalls:
    """The pairs (prompts[j], calls[j]) with every branch."""
    branches = latents.branches
    return CalibrationCalls(
        torch.from_numpy(latents.states(prompts, calls)).repeat_interleave(branches, dim=0).to(device),
        torch.tensor(list(calls)).repeat_interleave(branches).to(device),
        tuple(condition.flatten(0, 1).to(device) for condition in latents.conditions(prompts)),
    )


def sample_count(pairs: int, branches: int, most: int) -> int:
    """Samples of as many of the pairs as give at most ``most`` samples, but of one pair at least."""
    return branches * max(1, min(pairs, most // branches))


UNIFORM = 0.2
"""Share of draws that do not look at the calls' weights, so that calls of little weight are seen too."""


def draw_shares(weights: Tensor) -> NDArray[np.float64]:
    """How often each call is drawn: ``((1 - UNIFORM) w_i + UNIFORM) / T``, float64 [T], of sum 1.

    Args:
        weights: of the calls, [T] with mean 1.
    """
    values = weights.cpu().numpy().astype(np.float64)
    found: NDArray[np.float64] = (1 - UNIFORM) * values / values.sum() + UNIFORM / len(values)
    return found


def random_pairs(
    latents: LatentDataset, samples: int, rng: np.random.Generator, shares: NDArray[np.float64] | None = None
) -> tuple[list[int], list[int]]:
    """Prompts and calls of as many pairs as give at most ``samples`` samples, none twice, in random order.

    Args:
        shares: how likely a pair of each call is to be drawn next, [T]; None: any as likely as any other.
    """
    total = latents.prompts * latents.calls
    count = sample_count(total, latents.branches, samples) // latents.branches
    if shares is None:
        chosen = rng.permutation(total)[:count]
    else:
        chosen = rng.choice(total, count, replace=False, p=np.tile(shares / latents.prompts, latents.prompts))
    return (chosen // latents.calls).tolist(), (chosen % latents.calls).tolist()


def strided_pairs(
    latents: LatentDataset, prompts: int, stride: int, samples: int, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Every ``stride``-th call of the first ``prompts`` prompts; of more than fit into ``samples`` a random part, in random order."""
    calls = np.arange(0, latents.calls, stride)
    who = np.arange(min(prompts, latents.prompts))
    total = len(calls) * len(who)
    pairs = rng.permutation(total)[: sample_count(total, latents.branches, samples) // latents.branches]
    return who[pairs // len(calls)].tolist(), calls[pairs % len(calls)].tolist()


def normal_times(count: int, calls: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Diffusion times of PTQ4DM's calibration samples, N(0.4 T, (0.4 T)^2), before they are made indices. float64 [count]"""
    return rng.normal(0.4 * calls, 0.4 * calls, count)


def call_of_time(times: NDArray[np.float64], calls: int) -> NDArray[np.int64]:
    """Call index of a diffusion time: cut to an integer t, clamped to [0, T - 1]; t = 0 is the last call, whose state is cleanest."""
    return calls - 1 - np.clip(np.trunc(times).astype(np.int64), 0, calls - 1)
