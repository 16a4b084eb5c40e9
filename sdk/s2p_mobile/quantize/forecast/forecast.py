"""A job's needs put together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import torch
from pydantic import Field

from s2p_converters.core.graph import LayerSpec, layer_specs
from s2p_converters.core.resources import checkpoint_bytes, load_bytes, parameter_count
from s2p_mobile.quantize.bits import quantized_specs, ranking_bits
from s2p_mobile.quantize.forecast.counting import Counted, count_unet
from s2p_mobile.quantize.forecast.disk import latent_set_bytes
from s2p_mobile.quantize.forecast.speed import GPUS, HOST_SHARE, LAUNCH_SECONDS, UTILISATION, probe
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.latents import LatentJob
from s2p_mobile.quantize.latents.manifest import SHARD_PROMPTS
from s2p_mobile.quantize.moments import MEMORY_BYTES, block_columns
from s2p_mobile.quantize.preparation.reconstructed import BATCH
from s2p_mobile.quantize.rounding.memory import sample_bytes, samples_that_fit
from s2p_mobile.quantize.rounding.walk import WALK_BATCH, reconstruction_units
from s2p_mobile.quantize.sensitivity import estimator
from s2p_mobile.quantize.sensitivity.measure import TRAJECTORIES
from s2p_mobile.quantize.training.work import TRAINED_METHODS
from s2p_mobile.sources.device import choose_device
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.prompts import repeated
from s2p_runtime.bench.probes import Probes
from s2p_runtime.contract import Contract

_FLOAT32 = 4
_GOLDEN_RUNS = 2
_LEARNED_PASSES = 2.25
"""Forward passes that a step of learned rounding is worth: a unit's input needs no gradient. Counted on the demo model."""


class DeviceForecast(Contract):
    """One device."""

    name: str
    flops_per_second: float = Field(description="that the estimate counts with")
    assumption: str
    hours: float
    fits: bool | None = Field(description="whether the training's memory fits; null where the device's is not known")


class Forecast(Contract):
    """What a job takes. Times are estimates; latents on disk are exact."""

    model: str
    method: str
    recipe: str
    parameters: dict[str, int] = Field(description="by component")
    layers: dict[str, int] = Field(description="number of layers by width; 'float' stays unquantized")
    weights: dict[str, int] | None = Field(description="weights by width; null where a ranking decides them")
    bits_note: str | None
    latents_bytes: int | None = Field(description="of the latent set's files; null where the method draws none")
    checkpoint_bytes: int = Field(description="at most")
    memory_bytes: int | None = Field(description="peak of the whole process; null where nothing is trained")
    memory_parts: dict[str, int]
    least_memory_bytes: int | None = Field(
        description="peak with checkpoint_activations and bf16 in the recipe's training; null where nothing is trained"
    )
    unet_flops: int = Field(description="of one forward pass of one sample")
    flops: dict[str, int] = Field(description="of each stage")
    passes: dict[str, int] = Field(description="U-Net passes of each stage, a backward pass counted as two")
    devices: tuple[DeviceForecast, ...]


def make_forecast(job: QuantizationJob, method: str) -> Forecast:
    """Count and time; loads no weights and draws nothing."""
    model, recipe = job.model, job.recipe
    rule = recipe.training
    specs = layer_specs(job.structure)
    chosen = quantized_specs(specs, recipe)
    layers, weights, note = _widths(job)
    trained = method in TRAINED_METHODS
    branches = 2 if job.guidance > 1 else 1
    counted = count_unet(
        job.structure, recipe, [spec.name for spec in chosen], len(job.plan.calls), model.conditioner.tokens, branches
    )
    latents = _latents_bytes(job) if trained else None
    process = Probes().resident_bytes() or 0  # read once: it changes from one reading to the next
    parts = _memory(job, counted, branches, process) if trained else {}
    stages = _stages(job, branches, trained)
    flops = {name: samples * counted.flops for name, (samples, _) in stages.items()}
    passes = {name: count for name, (_, count) in stages.items()}
    launches = sum(passes.values()) * counted.operations
    device = choose_device(job.device)
    memory = _peak(parts) if trained else None
    least = _peak(_memory(_frugal(job), counted, branches, process)) if trained else None
    return Forecast(
        model=model.name,
        method=method,
        recipe=recipe.name,
        parameters={name: parameter_count(model.folder / name) for name in _weighty(model)},
        layers=layers,
        weights=weights,
        bits_note=note,
        latents_bytes=latents,
        checkpoint_bytes=checkpoint_bytes(model.folder, model.family.folders),
        memory_bytes=memory,
        memory_parts=parts,
        least_memory_bytes=least,
        unet_flops=counted.flops,
        flops=flops,
        passes=passes,
        devices=(_here(counted, device, flops), *_others(rule.precision, flops, launches, memory)),
    )


def _weighty(model: Model) -> tuple[str, ...]:
    """Components with weights."""
    return (model.denoiser.folder, "vae", *model.family.text_encoders)


def _widths(job: QuantizationJob) -> tuple[dict[str, int], dict[str, int] | None, str | None]:
    """Layers and weights by width, and what is not known before sensitivity is measured."""
    recipe, specs = job.recipe, layer_specs(job.structure)
    chosen = quantized_specs(specs, recipe)
    kept = len(specs) - len(chosen)
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


def _latents_bytes(job: QuantizationJob) -> int | None:
    if job.latents is not None:
        return 0
    rule, conditioner = job.recipe.training, job.model.conditioner
    stored = rule.store_features and rule.distillation.weight > 0
    wanted = LatentJob(job.model, job.plan, repeated(job.prompts, rule.prompts), job.guidance, job.seed, features=stored)
    features = _block_shapes(job, 2 if job.guidance > 1 else 1) if stored else {}
    return latent_set_bytes(wanted.request, conditioner.tokens, conditioner.conditions, features)


def _block_shapes(job: QuantizationJob, branches: int) -> dict[str, tuple[int, ...]]:
    """[B, C, H, W] of each block's output."""
    structure = job.model.structure
    height, width = structure.sample_size
    shapes: dict[str, tuple[int, ...]] = {}
    for block in (*structure.down, *([structure.mid] if structure.mid else []), *structure.up):
        if block.resample and block.name.startswith("down"):
            height, width = (height + 1) // 2, (width + 1) // 2
        if block.resample and block.name.startswith("up"):
            height, width = height * 2, width * 2
        shapes[block.name] = (branches, block.resnets[-1][1], height, width)
    return shapes


def _memory(job: QuantizationJob, counted: Counted, branches: int, process: int) -> dict[str, int]:
    """Bytes of what training holds, beside what this process holds before (``process``). The allocator's and autograd's own needs
    are not counted: measured peaks on the CPU were 1.4 times the sum."""
    model, rule = job.model, job.recipe.training
    chosen = quantized_specs(layer_specs(job.structure), job.recipe)
    weights = sum(spec.weights for spec in chosen)
    learned = weights + sum(2 * spec.out_channels for spec in chosen)
    samples = rule.batch * branches
    activations = samples * counted.saved_bytes
    if rule.checkpoint_activations:
        # Only the inputs of resnets and transformers stay, about one image each; one of them at a time is whole.
        activations = samples * (counted.block_bytes + counted.saved_bytes // 10)
    if rule.precision == "bf16":
        activations = activations * 2 // 3  # convolutions and products keep halves, norms and rounding do not
    state = _FLOAT32 * learned * (3 + (rule.ema is not None)) + (9 * weights if rule.freezing is not None else 0)
    return {
        "process": process,
        "model": load_bytes(model.folder, _weighty(model)),
        "starting weights": _FLOAT32 * weights if rule.start.rounding != "nearest" else 0,
        "student": _FLOAT32 * learned + (2 * weights if rule.freezing is not None else 0),
        "optimizer and averages": _FLOAT32 * learned * (2 + (rule.ema is not None)),
        "freezing": 9 * weights if rule.freezing is not None else 0,
        "gradients": _FLOAT32 * learned,
        "quantized weights": counted.weight_bytes,
        "activations": activations,
        "state file": state,
        "rounding": _rounding_bytes(job, chosen),
    }


def _rounding_bytes(job: QuantizationJob, layers: Sequence[LayerSpec]) -> int:
    """What finding the weights to start from holds."""
    rule = job.recipe.training.start
    if rule.rounding == "gptq":
        moments = sum(_FLOAT32 * spec.in_channels * spec.kernel**2 * block_columns(spec) for spec in layers)
        return min(moments, MEMORY_BYTES)
    if rule.rounding == "adaround":
        samples = samples_that_fit(job.structure, rule.samples)
        # Of every weight the integer below, what is missing to it, and the way it goes.
        return sum((2 * _FLOAT32 + 1) * spec.weights for spec in layers) + samples * sample_bytes(job.structure)
    return 0


def _frugal(job: QuantizationJob) -> QuantizationJob:
    """The job with the settings that save most memory."""
    rule = job.recipe.training.model_copy(update={"checkpoint_activations": True, "precision": "bf16"})
    return replace(job, recipe=job.recipe.model_copy(update={"training": rule}))


def _peak(parts: dict[str, int]) -> int:
    """Rounding, an iteration and saving the state come one after the other."""
    fixed = parts["process"] + parts["model"] + parts["starting weights"]
    held = fixed + parts["student"] + parts["optimizer and averages"] + parts["freezing"]
    iteration = held + parts["gradients"] + parts["quantized weights"] + parts["activations"]
    return max(fixed + parts["rounding"], iteration, held + parts["state file"])


def _stages(job: QuantizationJob, branches: int, trained: bool) -> dict[str, tuple[int, int]]:
    """U-Net samples and U-Net passes of each stage; a backward pass counts as two forward ones."""
    rule, calls = job.recipe.training, len(job.plan.calls)
    run = calls * branches
    stages = {"golden runs": (_GOLDEN_RUNS * run, _GOLDEN_RUNS * calls)}
    calibrated = min(job.recipe.calibration.prompts, len(job.prompts))
    stages["calibration"] = (calibrated * run, calibrated * calls)
    if job.recipe.mixed is not None and job.sensitivity is None:
        stages["ranking"] = _ranking(job, calibrated, branches)
    if not trained:
        return stages
    drawn = 0 if job.latents is not None else rule.prompts
    stages["trajectories"] = (drawn * run, -(-drawn // SHARD_PROMPTS) * calls)
    if rule.loss.calls == "influence":
        # From every call to the end, for all prompts together.
        stages["influence of calls"] = (rule.loss.prompts * (calls + 1) * run // 2, (calls + 1) * calls // 2)
    if rule.start.rounding == "gptq":
        stages["rounding"] = (2 * rule.start.calls * branches, 2 * rule.start.calls)
    if rule.start.rounding == "adaround":
        stages["rounding"] = _adaround(job)
    teacher = rule.pipeline != "s2p" or (rule.distillation.weight > 0 and not rule.store_features)
    passes = 3 + teacher + rule.checkpoint_activations
    steps = rule.iterations * rule.accumulate * passes
    return stages | {"training": (steps * rule.batch * branches, steps)}


def _adaround(job: QuantizationJob) -> tuple[int, int]:
    """Samples and passes of learned rounding: both networks walk, and every part of the network is trained by itself."""
    rule, structure = job.recipe.training.start, job.structure
    samples = samples_that_fit(structure, rule.samples)
    units = reconstruction_units(quantized_specs(layer_specs(structure), job.recipe))
    blocks = len(structure.down) + len(structure.up) + (structure.mid is not None)
    # A walk runs every block once to its end, and once up to each of its units.
    walked = 2 * samples * (1 + (len(units) / blocks + 1) / 2)
    learned = rule.iterations * BATCH * _LEARNED_PASSES
    return round(walked + learned), round(walked / WALK_BATCH) + 3 * rule.iterations


def _ranking(job: QuantizationJob, prompts: int, branches: int) -> tuple[int, int]:
    """Samples and passes of measuring sensitivity: trajectories, and what the estimator makes of their calls."""
    rule, calls = job.recipe.mixed, len(job.plan.calls)
    assert rule is not None
    chosen = estimator(rule.ranking)
    trajectories = min(prompts, TRAJECTORIES) * calls
    layers = len(quantized_specs(layer_specs(job.structure), job.recipe))
    looks = min(chosen.samples, trajectories) * (1 + chosen.passes(layers, len(ranking_bits(job.recipe))))
    return (trajectories + looks) * branches, trajectories + looks


def _here(counted: Counted, device: torch.device, flops: dict[str, int]) -> DeviceForecast:
    rate = probe(counted.layers, device) * HOST_SHARE
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return DeviceForecast(
        name=f"this machine ({device}{threads})",
        flops_per_second=rate,
        assumption=f"{HOST_SHARE:g} of what the model's largest layers were just timed at",
        hours=sum(flops.values()) / rate / 3600,
        fits=None,
    )


def _others(precision: str, flops: dict[str, int], launches: int, memory: int | None) -> list[DeviceForecast]:
    rows = []
    for gpu in GPUS:
        peak = gpu.fp32 if precision == "fp32" or gpu.bf16 is None else gpu.bf16
        arithmetic = "fp32" if peak == gpu.fp32 else "bf16"
        rate = UTILISATION * peak
        rows.append(
            DeviceForecast(
                name=gpu.name,
                flops_per_second=rate,
                assumption=f"{UTILISATION:g} of its {peak / 1e12:g} TFLOPS in {arithmetic}, {1e6 * LAUNCH_SECONDS:g} us an operation",
                hours=(sum(flops.values()) / rate + launches * LAUNCH_SECONDS) / 3600,
                fits=None if memory is None else memory <= gpu.memory,
            )
        )
    return rows
