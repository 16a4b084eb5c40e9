"""The compute plan that fits a device: the most exact one whose stages all have room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from s2p_converters.core.resources import available_memory
from s2p_mobile.quantize.compute import ComputePlan, Precision
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.stages import Stage
from s2p_mobile.quantize.words import size_words
from s2p_mobile.sources.device import choose_device
from s2p_runtime.errors import S2PError

Kind = Literal["cpu", "cuda", "mps"]

_SPARE = 0.95
"""Share of free memory that a plan may take: allocators leave gaps."""
_CONTEXT = 700 << 20
"""Of CUDA's libraries on a device."""


@dataclass(frozen=True)
class Room:
    """Memory that is free.

    Attributes:
        kind: of the device; only ``cuda`` has memory of its own.
        device: bytes on the device, or of the one memory that there is; None: not known.
        host: bytes of the machine beside a device's own; None: not known, or the same.
        bf16: the device multiplies in bfloat16.
    """

    kind: Kind
    device: int | None
    host: int | None = None
    bf16: bool = True

    def holds(self, stages: Sequence[Stage]) -> bool:
        """Whether every stage has room."""
        return all(self._fits(stage) for stage in stages)

    def taken(self, stage: Stage) -> int:
        """What a stage takes of :attr:`device`: all that it holds, where there is one memory."""
        memory = stage.memory
        if self.kind != "cuda":
            return memory.on_device + memory.on_host
        return 0 if stage.on_host else memory.on_device + _CONTEXT

    def _beside(self, stage: Stage) -> int:
        """What it takes of :attr:`host`."""
        memory = stage.memory
        if self.kind != "cuda":
            return 0
        return memory.on_host + (memory.on_device if stage.on_host else 0)

    def _fits(self, stage: Stage) -> bool:
        pairs = ((self.taken(stage), self.device), (self._beside(stage), self.host))
        return all(limit is None or needed <= _SPARE * limit for needed, limit in pairs)


def room_of(device: torch.device, memory: int | None = None) -> Room:
    """What is free on a device of this machine.

    Args:
        memory: bytes to take at most, instead of what is free.
    """
    free = available_memory()
    if device.type == "cuda":
        on_device = memory if memory is not None else torch.cuda.mem_get_info(device)[0]
        return Room("cuda", on_device, free, torch.cuda.get_device_capability(device)[0] >= 8)
    if device.type == "mps":
        return Room("mps", memory if memory is not None else int(torch.mps.recommended_max_memory()), None, bf16=False)
    return Room("cpu", memory if memory is not None else free)


def best_plan(job: QuantizationJob, method: str, room: Room) -> QuantizationJob:
    """The job with the first plan whose stages fit, and with ``learn: scales`` in its recipe where no other does; the smallest where
    none fits."""
    smallest = job
    for candidate in candidates(job, room):
        smallest = candidate
        if room.holds(stages_of(candidate, method)):
            break
    return smallest


def planned(job: QuantizationJob, method: str, room: Room) -> QuantizationJob:
    """:func:`best_plan`, which has to fit.

    Raises:
        S2PError: none fits; says what the smallest would need.
    """
    found = best_plan(job, method, room)
    stages = stages_of(found, method)
    if room.holds(stages):
        return found
    stage = max(stages, key=room.taken)
    raise S2PError(
        f"{stage.name} needs {size_words(room.taken(stage))} of memory at least and {size_words(room.device or 0)} are there",
        "close other programs, choose another `device`, or a smaller picture by `size`",
        "memory",
    )


def stages_of(job: QuantizationJob, method: str) -> list[Stage]:
    """Everything that a job does, the writing of its checkpoint included."""
    from s2p_mobile.quantize.checkpointing import checkpoint_stages
    from s2p_mobile.quantize.methods import METHODS

    return [*METHODS.get(method).stages(job), *checkpoint_stages(job)]


def candidates(job: QuantizationJob, room: Room) -> Iterator[QuantizationJob]:
    """The job under plan after plan, each smaller than the one before."""
    plans = list(plans_of(job, room))
    yield from (replace(job, compute=plan) for plan in plans)
    if job.recipe.training.learn == "weights":
        training = job.recipe.training.model_copy(update={"learn": "scales"})
        frugal = replace(job, recipe=job.recipe.model_copy(update={"training": training}))
        yield from (replace(frugal, compute=plan) for plan in plans)


def plans_of(job: QuantizationJob, room: Room) -> Iterator[ComputePlan]:
    """Plan after plan: first blocks run again instead of being kept, then moments are halved, then fewer samples go together, and at
    last the FP network's weights are halved where they were not."""
    rule = job.recipe.training
    graph, training = _precisions(rule.precision, room)
    plan = ComputePlan(device=room.kind, graph=graph, training=training, recompute=rule.checkpoint_activations)
    yield plan
    branches, batch = job.branches, rule.batch
    steps: list[dict[str, object]] = [{"recompute": True}, {"moments": "bf16"}]
    pairs = batch
    while pairs > 1:
        pairs = -(-pairs // 2)
        steps.append({"pairs": pairs, "samples": max(branches, min(plan.samples, pairs * branches))})
    steps.append({"waiting": 1 << 30})
    if room.kind == "cpu":
        steps.append({"graph": "bf16"})
    for step in steps:
        plan = plan.model_copy(update=step)
        yield plan


def _precisions(asked: str, room: Room) -> tuple[Precision, Precision]:
    """Of FP networks that only run, and of training. On the processor float32 is as fast as anything."""
    if room.kind == "cpu":
        return "fp32", "fp32" if asked == "auto" else _known(asked)
    half: Precision = "bf16" if room.bf16 else "fp16"
    training: Precision = ("fp32" if room.kind == "mps" else half) if asked == "auto" else _known(asked)
    return "fp32" if asked == "fp32" else "fp16", training


def _known(precision: str) -> Precision:
    assert precision in ("fp32", "bf16", "fp16")
    return precision  # type: ignore[return-value]


def plan_words(job: QuantizationJob) -> str:
    """A plan in one line."""
    plan, rule = job.compute, job.recipe.training
    words = [
        f"FP network {'in' if plan.graph == plan.graph_products else 'rests in'} {plan.graph}",
        f"training in {plan.training}",
    ]
    if plan.recompute:
        words.append("blocks run again in the backward pass")
    words.append(f"{plan.pairs or rule.batch} of {rule.batch} pairs at a time")
    if plan.moments != "fp32":
        words.append("moments and averages in bf16")
    if rule.learn == "scales":
        words.append("only scales are learned, the integers stay those of the start")
    return ", ".join(words)


def plan_here(job: QuantizationJob, method: str, memory: int | None) -> QuantizationJob:
    """:func:`planned` for the job's own device."""
    return planned(job, method, room_of(choose_device(job.device), memory))
