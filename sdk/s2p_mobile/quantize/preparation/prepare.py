"""The network that training starts from: bits, scales, the weight of each call, and weights whose rounding hurts little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from s2p_converters.core.graph import LayerSpec, StepUNet
from s2p_converters.core.graph.operators import FloatLayer
from s2p_mobile.quantize.compute import autocast
from s2p_mobile.quantize.grid import search_pieces, weight_scale
from s2p_mobile.quantize.holdings import FLOAT32, holding, largest_layer, pass_bytes, weights_of
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.latents import LatentDataset
from s2p_mobile.quantize.moments import WeightedCalls, input_moments, layer_groups, moment_bytes, moment_pieces
from s2p_mobile.quantize.preparation.influence import Networks, call_influence, call_weights
from s2p_mobile.quantize.preparation.likeness import RoundedLike
from s2p_mobile.quantize.preparation.reconstructed import reconstructed_stage, reconstructed_weights
from s2p_mobile.quantize.preparation.starting_point import StartingPoint, ranks_by_influence, starting_point, starting_stages
from s2p_mobile.quantize.rounding.gptq import compensated, compensation_pieces
from s2p_mobile.quantize.stages import Passes, Stage
from s2p_mobile.quantize.student import StudentSpec, build_student
from s2p_mobile.quantize.student.network import student_network, student_shape
from s2p_mobile.quantize.work import finished_parts
from s2p_mobile.sources.trajectory import float_unet

INFLUENCE_STAGE = "measuring the influence of each call"
COMPENSATION_STAGE = "rounding weights one after another"
_CALLS_AT_A_TIME = 8


def prepare(job: QuantizationJob, latents: LatentDataset, device: torch.device) -> StudentSpec:
    """Everything that is decided before training.

    Args:
        latents: FP calls of the job's prompts.
        device: where the networks run.
    """
    teacher = job.compute.place(float_unet(job.model, job.plan, job.structure), device)
    start = starting_point(job, teacher, lambda alike: _call_weights(job, _spec_of(alike), teacher, latents))
    spec = _spec_of(start)
    if job.recipe.training.loss.calls == "influence":
        known = start.call_weights
        spec = replace(spec, call_weights=_call_weights(job, spec, teacher, latents) if known is None else known)
    rounding = job.recipe.training.start.rounding
    if job.like is not None:
        return replace(spec, weights=RoundedLike(job, job.like, start.specs))
    if rounding == "gptq":
        spec = replace(spec, weights=_compensated_weights(job, start.specs, spec, teacher, latents))
    elif rounding == "adaround":
        spec = replace(spec, weights=reconstructed_weights(job, spec.weight_bits, latents, device, spec.call_weights))
    return spec


def _spec_of(start: StartingPoint) -> StudentSpec:
    return StudentSpec(start.weight_bits, start.activation_scales, start.activation_zeros, start.float_inputs)


def _call_weights(job: QuantizationJob, spec: StudentSpec, teacher: StepUNet, latents: LatentDataset) -> Tensor:
    # Weights that are never learned take a byte each.
    training = job.recipe.training.model_copy(update={"learn": "scales"})
    rounded = replace(job, recipe=job.recipe.model_copy(update={"training": training}))
    student = build_student(rounded, spec, teacher.device)
    prompts = list(range(min(job.recipe.training.loss.prompts, latents.prompts)))
    networks = Networks(teacher, student, partial(autocast, teacher.device, job.compute.training), job.compute.samples)
    with job.progress.stage(INFLUENCE_STAGE, latents.calls) as advance:
        return call_weights(call_influence(networks, latents, prompts, advance, finished_parts(job)))


def _compensated_weights(
    job: QuantizationJob, layers: Sequence[LayerSpec], spec: StudentSpec, teacher: StepUNet, latents: LatentDataset
) -> dict[str, Tensor]:
    modules = dict(teacher.named_modules())
    kept = finished_parts(job)
    weights: dict[str, Tensor] = {}
    with job.progress.stage(COMPENSATION_STAGE, len(layers)) as advance:
        for group in layer_groups(layers):
            found = kept.load(COMPENSATION_STAGE, group[0].name)
            if found is None or found.keys() != {layer.name for layer in group}:
                found = {}
                for layer, moments in input_moments(teacher, group, lambda: _calls(job, spec, latents, teacher.device)):
                    module = modules[layer.name]
                    assert isinstance(module, FloatLayer)
                    bits, weight = spec.weight_bits[layer.name], module.weight.data
                    scale = weight_scale(weight, bits, job.recipe.weights.search)
                    found[layer.name] = compensated(weight, scale, bits, moments).cpu()
                kept.save(COMPENSATION_STAGE, group[0].name, found)
            weights |= found
            for _ in group:
                advance()
    return weights


def _calls(job: QuantizationJob, spec: StudentSpec, latents: LatentDataset, device: torch.device) -> Iterator[WeightedCalls]:
    """FP calls spread evenly over the plan, with prompts in turn; the same ones every time."""
    total, dtype = job.recipe.training.start.calls, job.compute.graph_dtype
    rng = np.random.Generator(np.random.PCG64([job.seed, 3]))
    prompts = rng.permutation(np.arange(total) % latents.prompts)
    positions = (np.arange(total) + rng.random(total)) * latents.calls / total
    calls = np.minimum(positions.astype(np.int64), latents.calls - 1)
    weights = torch.ones(latents.calls) if spec.call_weights is None else spec.call_weights
    for begin in range(0, total, _CALLS_AT_A_TIME):
        who, when = prompts[begin : begin + _CALLS_AT_A_TIME].tolist(), calls[begin : begin + _CALLS_AT_A_TIME].tolist()
        indices = torch.tensor(when).repeat_interleave(latents.branches)
        yield WeightedCalls(
            samples=torch.from_numpy(latents.states(who, when)).repeat_interleave(latents.branches, dim=0).to(device, dtype),
            calls=indices.to(device),
            conditions=tuple(condition.flatten(0, 1).to(device, dtype) for condition in latents.conditions(who)),
            weights=weights[indices].to(device),
        )


def preparation_stages(job: QuantizationJob, prompts: int) -> list[Stage]:
    """What :func:`prepare` announces and does.

    Args:
        prompts: of the latent set.
    """
    training = job.recipe.training
    influence = _influence_stage(job, min(training.loss.prompts, prompts))
    stages = starting_stages(job, [influence])
    if training.loss.calls == "influence" and not ranks_by_influence(job):
        stages.append(influence)
    if job.like is not None:
        return stages
    if training.start.rounding == "gptq":
        stages.append(_compensation_stage(job))
    elif training.start.rounding == "adaround":
        stages.append(reconstructed_stage(job, prompts))
    return stages


def _influence_stage(job: QuantizationJob, prompts: int) -> Stage:
    """Each call once by the student, and from each call on to the end by the FP network."""
    calls, samples = len(job.plan.calls), prompts * job.branches
    later = calls * (calls - 1) // 2
    student = student_network(student_shape(job))
    groups = -(-prompts // max(1, job.compute.samples // job.branches))
    passes = (
        Passes(samples * later, groups * later),
        Passes(samples * calls, groups * calls, network=student),
    )
    shapes = [layer.weight_shape for layer in job.layers]
    together = max(job.branches, min(job.compute.samples, samples))
    device = {"quantized network": weights_of(job) + FLOAT32 * largest_layer(job).weights, "passes": pass_bytes(job, together)}
    memory = holding(job, device)
    return Stage(INFLUENCE_STAGE, calls, passes, search_pieces(shapes, job.recipe.weights.search), memory=memory)


def _compensation_stage(job: QuantizationJob) -> Stage:
    layers, calls = job.layers, job.recipe.training.start.calls
    groups = len(list(layer_groups(layers)))
    passes = Passes(groups * calls * job.branches, groups * -(-calls // _CALLS_AT_A_TIME))
    names = {layer.name for layer in layers}
    works = [work for work in job.counted.layers if work.spec.name in names]
    search = search_pieces([layer.weight_shape for layer in layers], job.recipe.weights.search)
    work = [*moment_pieces(works, calls * job.branches), *compensation_pieces(layers), *search]
    group = max(sum(map(moment_bytes, found)) for found in layer_groups(layers))
    device = {"moments": group, "passes": pass_bytes(job, job.branches * _CALLS_AT_A_TIME)}
    memory = holding(job, device, {"starting weights": FLOAT32 * weights_of(job)})
    return Stage(COMPENSATION_STAGE, len(layers), (passes,), work, memory=memory)
