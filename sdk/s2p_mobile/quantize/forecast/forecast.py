"""A job's needs put together, whatever its method: what the method declares is added up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from pydantic import Field

from s2p_converters.core.graph import layer_specs
from s2p_converters.core.resources import checkpoint_bytes, parameter_count
from s2p_mobile.quantize.compute import ComputePlan
from s2p_mobile.quantize.forecast.gpus import GPUS, LAUNCH_SECONDS, UTILISATION, Gpu
from s2p_mobile.quantize.forecast.timing import StageTime, Timing
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.methods import METHODS, recipe_for
from s2p_mobile.quantize.planning import Room, best_plan, plan_words, room_of, stages_of
from s2p_mobile.quantize.stages.parts import float_network
from s2p_mobile.sources.device import choose_device
from s2p_runtime.bench.probes import Probes
from s2p_runtime.contract import Contract


class StageForecast(Contract):
    """One stage of the work."""

    name: str = Field(description="as progress announces it")
    parts: int = Field(description="of its progress")
    samples: float = Field(
        description="that go forward through the U-Net; those of a part count by its share of the operations"
    )
    passes: float = Field(description="forward passes through the U-Net, counted in the same way")
    backward_passes: float
    flops: float = Field(description="of its passes; a backward pass is two forward ones")
    seconds: float = Field(description="on this machine")
    memory_bytes: int = Field(description="that it holds on this machine, libraries included")
    memory_parts: dict[str, int]


class DeviceForecast(Contract):
    """One device."""

    name: str
    flops_per_second: float | None = Field(description="that the estimate counts with; null where the work itself was timed")
    assumption: str
    hours: float
    fits: bool = Field(description="whether any plan fits its memory")
    plan: ComputePlan = Field(description="that would be chosen there; the smallest where none fits")
    plan_words: str
    memory_bytes: int = Field(description="that the plan takes of its memory")


class Forecast(Contract):
    """What a job takes. Times are estimates; latents on disk are exact."""

    model: str
    method: str
    recipe: str
    parameters: dict[str, int] = Field(description="by component")
    layers: dict[str, int] = Field(description="number of layers by bit-width; 'float' stays unquantized")
    weights: dict[str, int] | None = Field(description="weights by bit-width; null where a ranking decides them")
    bits_note: str | None
    disk: dict[str, int] = Field(description="bytes written on the way, by what they hold")
    checkpoint_bytes: int = Field(description="at most")
    memory_bytes: int = Field(description="peak of the whole process")
    memory_parts: dict[str, int] = Field(description="of the stage that needs most")
    memory_stage: str
    unet_flops: int = Field(description="of one forward pass of one sample")
    start_seconds: float = Field(description="before the first stage: loading of libraries and of the model")
    stages: tuple[StageForecast, ...]
    devices: tuple[DeviceForecast, ...] = Field(description="this machine's first")


def make_forecast(job: QuantizationJob, method: str, start_seconds: float = 0.0, memory: int | None = None) -> Forecast:
    """Count and time; loads no weights and draws nothing.

    Args:
        method: by name.
        memory: bytes to take at most on this machine, instead of what is free.
        start_seconds: what comes before the first stage, as far as the caller knows.

    Raises:
        S2PError: unknown method or device.
    """
    chosen = METHODS.get(method)
    job = replace(job, recipe=recipe_for(method, job.recipe))
    room = room_of(choose_device(job.device), memory)
    job = best_plan(job, method, room)
    model, counted = job.model, job.counted
    layers, weights, note = _bit_widths(job, chosen.widths(job))
    process = Probes().resident_bytes() or 0  # read once: it changes from one reading to the next
    fp = float_network(job.structure, model.conditioner.tokens)
    device = choose_device(job.device)
    timing = Timing(stages_of(job, method), counted, fp, device, job.compute.recompute)
    stages = tuple(_stage(time, process) for time in timing.stages)
    worst = max(stages, key=lambda stage: stage.memory_bytes)
    return Forecast(
        model=model.name,
        method=method,
        recipe=job.recipe.name,
        parameters={name: parameter_count(model.folder / name) for name in model.weighty_folders},
        layers=layers,
        weights=weights,
        bits_note=note,
        disk=dict(chosen.disk(job)),
        checkpoint_bytes=checkpoint_bytes(model.folder, model.family.folders),
        memory_bytes=worst.memory_bytes,
        memory_parts=worst.memory_parts,
        memory_stage=worst.name,
        unet_flops=counted.flops,
        start_seconds=start_seconds,
        stages=stages,
        devices=(
            _here(timing, start_seconds, job, room, worst.memory_bytes, method),
            *(_elsewhere(timing, gpu, start_seconds, job, method) for gpu in GPUS),
        ),
    )


def _stage(time: StageTime, process: int) -> StageForecast:
    parts = {"process": process, **time.stage.memory.together}
    return StageForecast(
        name=time.stage.name,
        parts=time.stage.parts,
        samples=time.samples,
        passes=time.forward,
        backward_passes=time.backward,
        flops=time.flops,
        seconds=time.seconds,
        memory_bytes=sum(parts.values()),
        memory_parts=parts,
    )


def _bit_widths(
    job: QuantizationJob, own: Mapping[str, int] | None
) -> tuple[dict[str, int], dict[str, int] | None, str | None]:
    """Layers and weights by bit-width, the method's own or the recipe's, and what is not known before sensitivity is measured."""
    recipe, chosen = job.recipe, job.layers
    kept = len(layer_specs(job.structure)) - len(chosen)
    if own is not None:
        layers = Counter(map(str, own.values()))
        weights = Counter[str]()
        for spec in chosen:
            if spec.name in own:
                weights[str(own[spec.name])] += spec.weights
        return {**layers, "float": kept + len(chosen) - len(own)}, dict(weights), None
    base, mixed = str(recipe.weights.bits), recipe.mixed
    total = sum(spec.weights for spec in chosen)
    if mixed is None:
        return {base: len(chosen), "float": kept}, {base: total}, None
    if mixed.top is not None:
        wide = math.ceil(Fraction(str(mixed.top)) * len(chosen))
        note = f"which {wide} layers get {mixed.bits} bits is decided by {mixed.ranking}"
        return {base: len(chosen) - wide, str(mixed.bits): wide, "float": kept}, None, note
    goal = f"{mixed.average_bits:g} bits a weight" if mixed.size is None else f"{mixed.size} bytes"
    widths = "/".join(map(str, mixed.candidates))
    return {widths: len(chosen), "float": kept}, None, f"{mixed.ranking} shares {goal} among the layers"


def _here(timing: Timing, start: float, job: QuantizationJob, room: Room, memory: int, method: str) -> DeviceForecast:
    device = timing.stopwatch.device
    threads = "" if device.type != "cpu" else ", 1 thread" if timing.stopwatch.counts_process_time else ", several threads"
    alone = ", if nothing else runs on it" if timing.stopwatch.counts_process_time else ""
    return DeviceForecast(
        name=f"this machine ({device}{threads})",
        flops_per_second=None,
        assumption=f"the speed of pieces of this very work just now{alone}",
        hours=(start + timing.seconds) / 3600,
        fits=room.holds(stages_of(job, method)),
        plan=job.compute,
        plan_words=plan_words(job),
        memory_bytes=memory,
    )


def _elsewhere(timing: Timing, gpu: Gpu, start: float, job: QuantizationJob, method: str) -> DeviceForecast:
    there_job = best_plan(job, method, gpu.room)
    stages = stages_of(there_job, method)
    there, host = timing.gpu_seconds(gpu, there_job.compute)
    precision = there_job.compute.training
    return DeviceForecast(
        name=gpu.name,
        flops_per_second=UTILISATION * gpu.peak(precision),
        assumption=f"{UTILISATION:g} of its {gpu.peak(precision) / 1e12:g} TFLOPS in {precision}, {1e6 * LAUNCH_SECONDS:g} us an "
        f"operation, and {(start + host) / 60:.1f} min on a processor like this",
        hours=(start + there + host) / 3600,
        fits=gpu.room.holds(stages),
        plan=there_job.compute,
        plan_words=plan_words(there_job),
        memory_bytes=max(map(gpu.room.taken, stages)),
    )
