"""Where runs from a picture begin, probed from the scheduler that made a plan.

As diffusers' image-to-image pipelines do it: the last steps alone are made, from a state that ``add_noise`` makes of the picture's
latents. A sampler that looks back finds nothing behind its first call, so its first rows are others than the plan's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2p_converters.core.plan.double import double_precision
from s2p_converters.core.plan.own import PIPELINES_CHANGE, OwnScheduler, build, own_scheduler
from s2p_converters.core.plan.probe import extract_plan, probe_calls, refusals, refuse_growth
from s2p_converters.core.plan.registry import SCHEDULERS
from s2p_converters.core.plan.schedulers import make_scheduler
from s2p_runtime.errors import S2PError
from s2p_runtime.plan import ImageStart, PlanCall, SamplingPlan

_SAME = 1e-9
_MEMORY = 6
"""After so many rows that are the plan's, all others are: no sampler looks back as far."""


def image_starts(plan: SamplingPlan, scheduler_folder: Path) -> tuple[ImageStart, ...]:
    """Where a run from a picture may begin: one entry to each step of the plan.

    Args:
        scheduler_folder: of the model or the checkpoint; the sampler that the plan was made with is found by its rows.

    Raises:
        S2PError: no sampler that is known gives this plan, or it cannot begin later than at its first call.
    """
    scheduler = _scheduler_of(plan, scheduler_folder)
    with refusals(plan.scheduler, plan.steps):
        starts = tuple(_start(scheduler, plan, step) for step in range(plan.steps))
    for start in starts:
        refuse_growth(plan.begun_at(start))
    return starts


def _scheduler_of(plan: SamplingPlan, folder: Path) -> Any:
    """The scheduler whose plan this is."""
    for make in _makers(own_scheduler(folder), plan.scheduler):
        try:
            scheduler = make()
            found = extract_plan(scheduler, plan.steps)
        except S2PError:
            continue
        if len(found.calls) == len(plan.calls) and all(map(_same, found.calls, plan.calls)):
            return scheduler
    raise S2PError(
        f"no sampler gives the plan of {plan.scheduler} with {plan.steps} steps from {folder}",
        "draw from noise only, or make the checkpoint again",
        "image_to_image",
    )


def _makers(own: OwnScheduler, name: str) -> Iterator[Callable[[], Any]]:
    """Make schedulers of a class's name on a model's configuration: its own one as configured, then the samplers by name.

    What diffusers' pipelines may have changed in a model's scheduler a checkpoint's copy of the configuration does not tell.
    """
    accepted = set() if own.kind is None else set(inspect.signature(own.kind.__init__).parameters)
    for changed in chain.from_iterable(combinations(PIPELINES_CHANGE, count) for count in range(len(PIPELINES_CHANGE) + 1)):
        settings = {**own.settings, **{setting: PIPELINES_CHANGE[setting] for setting in changed}}
        if own.name == name and accepted.issuperset(changed):
            yield partial(build, own.kind, {**settings, **own.supplied})
        for sampler, entry in SCHEDULERS.entries.items():
            if entry.class_name == name:
                yield partial(make_scheduler, sampler, settings)


def _same(found: PlanCall, wanted: PlanCall) -> bool:
    """Whether two rows are equal but for how sums are rounded."""
    terms = [(row.states, row.outputs) for row in (found, wanted)]
    if any([k for k, _ in left] != [k for k, _ in right] for left, right in zip(*terms, strict=True)):
        return False
    left, right = (
        [row.timestep, row.input_scale, row.noise, *(factor for _, factor in (*row.states, *row.outputs))]
        for row in (found, wanted)
    )
    return bool(np.allclose(left, right, rtol=_SAME, atol=1e-12))


def _start(scheduler: Any, plan: SamplingPlan, step: int) -> ImageStart:
    call = step * getattr(scheduler, "order", 1)
    double = double_precision(scheduler)
    double.set_timesteps(plan.steps)
    if hasattr(double, "set_begin_index"):
        double.set_begin_index(call)
    one, nothing = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    timestep = double.timesteps[call : call + 1]
    latents, noise = (float(double.add_noise(*pair, timestep)) for pair in ((one, nothing), (nothing, one)))
    if not np.isfinite([latents, noise]).all():
        raise S2PError(f"{plan.scheduler} starts from an infinite noise level", "draw from noise only", "image_to_image")
    rows: list[PlanCall] = []
    alike = 0
    for row, wanted in zip(probe_calls(double, plan.timesteps, call), plan.calls[call:], strict=False):
        alike = alike + 1 if _same(row, wanted) else 0
        # What only rounds otherwise is the plan's.
        rows.append(wanted if alike else row)
        if alike == _MEMORY:
            break
    return ImageStart(call=call, latents=latents, noise=noise, rows=tuple(rows[: len(rows) - alike]))
