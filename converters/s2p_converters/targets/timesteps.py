"""Schedulers of Apple's Swift packages, and how a timestep that one of them passes finds its call.

Formulas: ``Scheduler.swift`` (PNDM) and ``DPMSolverMultistepScheduler.swift`` of apple/ml-stable-diffusion; apple/coreai-models
has them too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.graph import StepTables, StepUNet
from s2p_converters.core.json_object import MAX_WORDS_BYTES, read_object
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.timesteps import told_timestep

TRAIN_STEPS = 1000
Key = TypeVar("Key", covariant=True)
Choice = TypeVar("Choice")


def scheduler_configuration(checkpoint: Checkpoint) -> dict[str, Any]:
    """The configuration of the model's own scheduler, as diffusers wrote it.

    Raises:
        S2PError: it is not there, or not readable.
    """
    return of_checkpoint(checkpoint, "scheduler/scheduler_config.json", "a scheduler configuration")


def of_checkpoint(checkpoint: Checkpoint, name: str, what: str) -> dict[str, Any]:
    """A JSON object in a checkpoint's folder; ``what`` with its article.

    Raises:
        S2PError: it is not there, or not readable.
    """
    again = "make the checkpoint again with s2p-mobile quantize"
    return read_object(checkpoint.folder / name, what, again, again, MAX_WORDS_BYTES)


def call_thresholds(timesteps: Sequence[float]) -> list[int]:
    """Integers b_k such that the call nearest to an integer timestep t is the number of k with ``t < b_k``.

    ``b_k`` is the midpoint of calls k and k + 1, rounded up, which changes no comparison with an integer; of two equally near
    calls the noisier one is taken. Calls at the same timestep cannot be told apart: the first of them stands for all.

    Args:
        timesteps: of the plan's calls, not negative.

    Returns:
        One integer less than there are calls.

    Raises:
        S2PError: a timestep is above the one before it.
    """
    if any(later > earlier for earlier, later in itertools.pairwise(timesteps)):
        raise S2PError(
            "the plan's timesteps rise, so a timestep does not name a call", "quantize with another `scheduler`", "scheduler"
        )
    thresholds = []
    following = 0  # No timestep is below it: calls that repeat the last timestep are never chosen.
    for earlier, later in zip(reversed(timesteps[:-1]), reversed(timesteps[1:]), strict=True):
        if later < earlier:
            following = math.ceil((earlier + later) / 2)
        thresholds.append(following)
    return thresholds[::-1]


def nearest_call(thresholds: Sequence[int], timestep: int) -> int:
    """What the program computes from its thresholds."""
    return sum(timestep < threshold for threshold in thresholds)


def _rounded(value: float) -> int:
    """Halves upwards, as Swift's ``round`` does for positive numbers."""
    return math.floor(value + 0.5)


def pndm_timesteps(steps: int) -> list[int]:
    """Timesteps of ``PNDMScheduler(stepCount:)``: steps + 1 calls, the second timestep twice."""
    forward = [k * (TRAIN_STEPS // steps) + 1 for k in range(steps)]
    return [*forward[:-1], forward[-2], forward[-1]][::-1]


def linspace_timesteps(steps: int) -> list[int]:
    """Timesteps of ``DPMSolverMultistepScheduler(stepCount:, timeStepSpacing: .linspace)``."""
    return [_rounded(t) for t in np.linspace(0, TRAIN_STEPS - 1, steps + 1)[1:][::-1].tolist()]


def leading_timesteps(steps: int) -> list[int]:
    """The same with ``.leading``."""
    ratio = (TRAIN_STEPS - 1) // (steps + 1)
    return [1 + k * ratio for k in range(1, steps + 1)][::-1]


def karras_timesteps(steps: int) -> list[int]:
    """The same with ``.karras``: Karras et al. 2022, equation 5 with rho 7, between the ends of the noise schedule."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, TRAIN_STEPS) ** 2
    kept = np.cumprod(1 - betas)
    log_sigmas = np.log((1 - kept) / kept) / 2
    ends = np.exp(log_sigmas[[-1, 0]] / 7)
    sigmas = (ends[0] + np.linspace(0, 1, steps) * (ends[1] - ends[0])) ** 7
    return [_rounded(t) for t in np.interp(np.log(sigmas), log_sigmas, np.arange(TRAIN_STEPS)).tolist()]


@dataclass(frozen=True)
class Schedule(Generic[Key]):
    """A scheduler of a package.

    Attributes:
        key: what an app asks for.
        timesteps: of a number of steps.
        repeats: calls beyond one a step.
    """

    key: Key
    timesteps: Callable[[int], list[int]]
    repeats: int = 0


def matching_schedule(timesteps: list[float], schedules: Sequence[Schedule[Choice]]) -> tuple[Choice | None, int, float]:
    """The scheduler whose timesteps come nearest among those that find the same calls as the plan's own timesteps, its steps, and how
    far apart the two are at most. A plan of few calls has wide gaps, in which many timesteps find the same call."""
    thresholds = call_thresholds(timesteps)
    found = [nearest_call(thresholds, told_timestep(t)) for t in timesteps]
    fitting = []
    for place, schedule in enumerate(schedules):
        steps = len(timesteps) - schedule.repeats
        if not 1 + schedule.repeats <= steps < TRAIN_STEPS:
            continue
        visited = schedule.timesteps(steps)
        if [nearest_call(thresholds, t) for t in visited] == found:
            distances = [abs(a - b) for a, b in zip(visited, timesteps, strict=True)]
            fitting.append((sum(distances), place, steps, max(distances)))
    if not fitting:
        return None, len(timesteps), 0.0
    _, place, steps, apart = min(fitting)
    return schedules[place].key, steps, apart


def as_the_pipeline_calls(unet: StepUNet, timesteps: Sequence[float]) -> None:
    """Reorder a reference's tables: row i becomes that of the call which timestep i finds, for calls at one timestep."""
    thresholds = call_thresholds(timesteps)
    calls = [nearest_call(thresholds, told_timestep(timestep)) for timestep in timesteps]
    assert isinstance(unet.tables, StepTables)
    unet.tables.matrix = unet.tables.matrix[calls]
