"""What every method begins with: the bit-width of each layer and the activation scales found on FP trajectories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from s2p_converters.core.graph import LayerSpec, StepUNet, layer_specs
from s2p_converters.core.packing import integer_range
from s2p_mobile.quantize.bits import quantized_specs, ranking_bits, weight_bits
from s2p_mobile.quantize.calibration import (
    RECORDING_STAGE,
    SEARCH_STAGE,
    calibration_stages,
    record_activations,
    statistics_bytes,
)
from s2p_mobile.quantize.holdings import FLOAT32, gradient_bytes, holding, pass_bytes
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.recompute import recomputing
from s2p_mobile.quantize.rounding.calls import draw_shares
from s2p_mobile.quantize.sensitivity import rank_on_trajectories, ranking_stages
from s2p_mobile.quantize.sensitivity.activations import (
    SAMPLES,
    TRAJECTORIES_STAGE,
    activation_error_stage,
    activation_errors,
    float_inputs,
)
from s2p_mobile.quantize.sensitivity.measure import TRAJECTORIES
from s2p_mobile.quantize.sensitivity.samples import calls_together, collect_samples, samples_of
from s2p_mobile.quantize.stages import Passes, Stage
from s2p_mobile.quantize.work import finished_parts
from s2p_mobile.sources.trajectory import Prompt, encode_prompt
from s2p_runtime.errors import S2PError


@dataclass(frozen=True)
class StartingPoint:
    """
    Attributes:
        specs: the quantized layers, L of them, in the order in which they run.
        weight_bits: layer -> bit-width.
        activation_scales: float32 [T, L], snapped; None with float activations.
        activation_zeros: layer -> zero point of its input's grid.
        float_inputs: layers whose inputs are not rounded after all; their columns of the table mean nothing.
        call_weights: of the calls, where they were measured for the ranking, float32 [T] with mean 1.
    """

    specs: list[LayerSpec]
    weight_bits: dict[str, int]
    activation_scales: Tensor | None
    activation_zeros: dict[str, int]
    float_inputs: frozenset[str] = frozenset()
    call_weights: Tensor | None = None


WeighCalls = Callable[[StartingPoint], Tensor]
"""A start whose layers all have the recipe's base width -> how much each call's error changes the picture, [T] with mean 1."""


def starting_point(job: QuantizationJob, unet: StepUNet, weigh: WeighCalls | None = None) -> StartingPoint:
    """Allocate bits and search activation scales on the first ``calibration.prompts`` prompts of a job.

    Args:
        unet: the FP graph under the job's plan.
        weigh: needed by ``mixed.calls: influence``.

    Raises:
        S2PError: the recipe ranks by the calls' influence and ``weigh`` is None.
    """
    specs = quantized_specs(layer_specs(unet.structure), job.recipe)
    prompts = _prompts(job)
    if not ranks_by_influence(job):
        bits = _bits(job, unet, specs, prompts)
        scales, zeros = _activation_grids(job, unet, specs, prompts)
        return StartingPoint(specs, bits, scales, zeros, _float_inputs(job, unet, specs, prompts, scales, zeros))
    if weigh is None:
        raise _no_influence()
    scales, zeros = _activation_grids(job, unet, specs, prompts)
    floats = _float_inputs(job, unet, specs, prompts, scales, zeros)
    alike = {spec.name: job.recipe.weights.bits for spec in specs}
    weights = weigh(StartingPoint(specs, alike, scales, zeros, floats))
    bits = _bits(job, unet, specs, prompts, draw_shares(weights))
    return StartingPoint(specs, bits, scales, zeros, floats, weights)


def ranks_by_influence(job: QuantizationJob) -> bool:
    """Whether the calls' weights have to be known before the layers are ranked."""
    rule = job.recipe.mixed
    given = job.sensitivity is not None or job.like is not None or job.widths is not None
    return rule is not None and rule.calls == "influence" and not given


def _no_influence() -> S2PError:
    return S2PError(
        "this method does not measure the calls' influence, which `mixed.calls: influence` ranks by",
        "take `uniform`, or give a measured `sensitivity`",
        "recipe",
    )


def planned_bits(job: QuantizationJob, unet: StepUNet) -> dict[str, int]:
    """Bit-width of every layer that the recipe quantizes, in the order in which they run.

    Args:
        unet: the FP graph under the job's plan.
    """
    if ranks_by_influence(job):
        raise _no_influence()
    return _bits(job, unet, quantized_specs(layer_specs(unet.structure), job.recipe), _prompts(job))


def _bits(
    job: QuantizationJob,
    unet: StepUNet,
    specs: Sequence[LayerSpec],
    prompts: Sequence[Prompt],
    shares: NDArray[np.float64] | None = None,
) -> dict[str, int]:
    rule = job.recipe.mixed
    if job.like is not None:
        return {spec.name: job.like.weight_bits[spec.name] for spec in specs}
    if job.widths is not None:
        return {spec.name: job.widths[spec.name] for spec in specs}
    if rule is None:
        return weight_bits(specs, job.recipe, None)
    if job.sensitivity is not None:
        return weight_bits(specs, job.recipe, job.sensitivity.by_layer())
    with recomputing(unet, job.compute.recompute):
        values = rank_on_trajectories(
            unet, job.plan, prompts, job.guidance, job.latent_shape, [spec.name for spec in specs],
            rule.ranking, ranking_bits(job.recipe), job.recipe.weights.search, job.seed, job.progress, finished_parts(job),
            shares,
        )  # fmt: skip
    return weight_bits(specs, job.recipe, values)


def _prompts(job: QuantizationJob) -> list[Prompt]:
    """The first ``calibration.prompts`` of the job."""
    texts = job.prompts[: job.recipe.calibration.prompts]
    return [encode_prompt(job.model, text, job.seed + k, job.guidance) for k, text in enumerate(texts)]


def _activation_grids(
    job: QuantizationJob, unet: StepUNet, specs: Sequence[LayerSpec], prompts: Sequence[Prompt]
) -> tuple[Tensor | None, dict[str, int]]:
    rule = job.recipe.activations
    if rule.bits is None:
        return None, {}
    names = [spec.name for spec in specs]
    with job.progress.stage(RECORDING_STAGE, len(prompts)) as advance:
        statistics = record_activations(
            unet, job.plan, prompts, job.guidance, job.latent_shape, names, lambda _: advance(), finished_parts(job)
        )
    with job.progress.stage(SEARCH_STAGE, len(names)) as advance:
        return statistics.grids(rule.bits, rule, advance, None if job.like is None else job.like.activation_zeros)


def _float_inputs(
    job: QuantizationJob,
    unet: StepUNet,
    specs: Sequence[LayerSpec],
    prompts: Sequence[Prompt],
    scales: Tensor | None,
    zeros: Mapping[str, int],
) -> frozenset[str]:
    rule = job.recipe.activations
    if job.like is not None and scales is not None:
        return job.like.float_inputs
    if scales is None or rule.bits is None or rule.float_share == 0.0:
        return frozenset()
    columns = {spec.name: position for position, spec in enumerate(specs)}
    low, high = integer_range(rule.bits)

    def rounded(name: str, call: int, x: Tensor) -> Tensor:
        scale, zero = float(scales[call, columns[name]]), zeros.get(name, 0)
        return (x.float() / scale).round().clamp(low - zero, high - zero) * scale

    with recomputing(unet, job.compute.recompute):
        samples = collect_samples(
            unet, job.plan, prompts[:TRAJECTORIES], job.guidance, job.latent_shape, SAMPLES, job.progress, finished_parts(job),
            title=TRAJECTORIES_STAGE,
        )  # fmt: skip
        errors = activation_errors(unet, samples, list(columns), rounded, job.seed, job.progress)
    return float_inputs(errors, {work.spec.name: work.flops for work in job.counted.layers}, rule.float_share)


def starting_stages(job: QuantizationJob, influence: Sequence[Stage] = ()) -> list[Stage]:
    """What :func:`starting_point` announces and does.

    Args:
        influence: what ``weigh`` does.
    """
    if ranks_by_influence(job):
        return [*_grid_stages(job), *influence, *bits_stages(job)]
    return [*bits_stages(job), *_grid_stages(job)]


def _grid_stages(job: QuantizationJob) -> list[Stage]:
    stages: list[Stage] = []
    rule = job.recipe.activations
    if rule.bits is not None:
        names = {layer.name for layer in job.layers}
        layers = [work for work in job.counted.layers if work.spec.name in names]
        memory = holding(
            job,
            {"passes": pass_bytes(job, job.branches), "an input": 4 * FLOAT32 * job.branches * max(w.values for w in layers)},
            {"activation statistics": 2 * statistics_bytes(len(job.plan.calls), len(layers))},
        )
        found = calibration_stages(layers, len(job.plan.calls), _prompt_count(job), job.branches, rule.bits, rule)
        stages += [replace(stage, memory=memory) for stage in found]
        if rule.float_share > 0.0 and job.like is None:
            calls = len(job.plan.calls)
            drawn, looked = samples_of(calls, min(_prompt_count(job), TRAJECTORIES), SAMPLES)
            trajectories = Stage(TRAJECTORIES_STAGE, drawn, (Passes(drawn * calls * job.branches, drawn * calls),))
            measuring = replace(activation_error_stage(looked, job.branches), memory=holding(job, gradient_bytes(job)))
            stages += [replace(trajectories, memory=memory), measuring]
    return stages


def bits_stages(job: QuantizationJob) -> list[Stage]:
    """What :func:`planned_bits` announces and does."""
    rule = job.recipe.mixed
    if rule is None or job.sensitivity is not None or job.like is not None or job.widths is not None:
        return []
    values = job.branches * int(np.prod(job.latent_shape))
    stages = ranking_stages(
        rule.ranking, job.layers, ranking_bits(job.recipe), job.recipe.weights.search,
        len(job.plan.calls), _prompt_count(job), job.branches, values,
    )  # fmt: skip
    forward = holding(job, {"passes": pass_bytes(job, job.branches * calls_together(values))})
    backward = holding(job, gradient_bytes(job))
    return [replace(stage, memory=backward if stage.backward_passes else forward) for stage in stages]


def _prompt_count(job: QuantizationJob) -> int:
    return min(job.recipe.calibration.prompts, len(job.prompts))
