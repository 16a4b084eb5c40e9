"""The plan of a run: chosen once, kept beside its work, and what happens when memory runs out all the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import ValidationError

from s2p_mobile.quantize.byte_count import byte_count
from s2p_mobile.quantize.compute import ComputePlan
from s2p_mobile.quantize.counts import counts_of, with_counts
from s2p_mobile.quantize.forecast.budget import budget_seconds, within_budget
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.planning import plan_here, plan_words, room_of, stages_of
from s2p_mobile.quantize.work import PLAN_NAME
from s2p_mobile.quantize.workers import is_main_process
from s2p_mobile.sources.device import choose_device
from s2p_runtime.allocator import give_back_free_blocks
from s2p_runtime.contract import Contract
from s2p_runtime.errors import S2PError
from s2p_runtime.files import atomic_file
from s2p_runtime.progress import Progress


class _Kept(Contract):
    """What is kept of a plan."""

    compute: ComputePlan
    learn: Literal["weights", "scales"]
    counts: dict[str, int]


def memory_bytes(memory: str | int) -> int | None:
    """``auto`` -> None, ``12GiB`` or a number -> bytes.

    Raises:
        S2PError: no size.
    """
    if memory == "auto":
        return None
    try:
        found = memory if isinstance(memory, int) else byte_count(memory)
    except ValueError as error:
        raise S2PError(str(error), "give `memory` as 12GiB, or auto", "memory") from error
    if found <= 0:
        raise S2PError(f"memory of {found} bytes is none", "give `memory` as 12GiB, or auto", "memory")
    return found


def chosen_plan(job: QuantizationJob, method: str, memory: int | None, budget: str | None) -> tuple[QuantizationJob, list[str]]:
    """The job with the plan that fits, and with the counts that fit a time; what was chosen, in words.

    A run that goes on keeps the counts that it began with, and the plan unless memory is named.

    Raises:
        S2PError: no plan fits, no time, or too little of it.
    """
    seconds = None if budget is None else budget_seconds(budget)
    kept = _kept(job) if job.resume else None
    if kept is not None:
        job = replace(job, recipe=with_counts(job.recipe, kept.counts))
        seconds = None
    job = _fitting(job, method, memory, kept)
    words = [f"plan: {plan_words(job)}"]
    if seconds is not None:
        job, said = within_budget(job, method, seconds)
        words.append(said)
    return job, words


def _fitting(job: QuantizationJob, method: str, memory: int | None, kept: _Kept | None) -> QuantizationJob:
    if kept is None or memory is not None:
        return plan_here(job, method, memory)
    training = job.recipe.training.model_copy(update={"learn": kept.learn})
    found = replace(job, compute=kept.compute, recipe=job.recipe.model_copy(update={"training": training}))
    room = room_of(choose_device(job.device))
    # On another device, or with less memory than there was, the plan is made anew.
    fits = kept.compute.device == room.kind and room.holds(stages_of(found, method))
    return found if fits else plan_here(job, method, memory)


def _kept(job: QuantizationJob) -> _Kept | None:
    try:
        return None if job.work is None else _Kept.model_validate_json((job.work / PLAN_NAME).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def keep_plan(job: QuantizationJob) -> None:
    """Keep the plan for a run that goes on.

    Raises:
        S2PError: no space left, no permission.
    """
    if job.work is None or not is_main_process():
        return
    with atomic_file(job.work / PLAN_NAME) as path:
        kept = _Kept(compute=job.compute, learn=job.recipe.training.learn, counts=counts_of(job.recipe))
        path.write_text(kept.model_dump_json(), encoding="utf-8")


@dataclass
class _Watching:
    """Hands progress on, knows what is done at present, and begins each stage without what the one before it freed."""

    listener: Progress
    present: str = "the start"

    def stage(self, title: str, total: int) -> AbstractContextManager[Callable[..., None]]:
        """See :class:`s2p_runtime.progress.Progress`."""
        self.present = title
        give_back_free_blocks()
        return self.listener.stage(title, total)


@contextlib.contextmanager
def within_memory(job: QuantizationJob) -> Iterator[QuantizationJob]:
    """The job; when memory runs out it is said where, and what to do.

    Raises:
        S2PError: memory ran out.
    """
    watching = _Watching(job.progress)
    try:
        yield replace(job, progress=watching)
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        kept = "" if job.work is None else f"; what is done is kept in {job.work}"
        go_on = "" if job.work is None else " and `resume`"
        raise S2PError(
            f"memory ran out in {watching.present} under the plan: {plan_words(job)}{kept}",
            f"give `memory` a size smaller than what was free{go_on}",
            "memory",
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    """Of the processor's allocator torch says it in words alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "t allocate memory" in str(error)
