"""What every method begins with: the width of each layer and the activation scales found on FP trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from s2p_converters.core.graph import LayerSpec, StepUNet, layer_specs
from s2p_mobile.quantize.bits import quantized_specs, ranking_bits, weight_bits
from s2p_mobile.quantize.calibration import record_activations
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.sensitivity import rank_on_trajectories
from s2p_mobile.sources.trajectory import Prompt, encode_prompt


@dataclass(frozen=True)
class StartingPoint:
    """
    Attributes:
        specs: the quantized layers, L of them, in the order in which they run.
        weight_bits: layer -> width.
        activation_scales: float32 [T, L], snapped; None with float activations.
        activation_zeros: layer -> zero point of its input's grid.
    """

    specs: list[LayerSpec]
    weight_bits: dict[str, int]
    activation_scales: Tensor | None
    activation_zeros: dict[str, int]


def starting_point(job: QuantizationJob, unet: StepUNet) -> StartingPoint:
    """Allocate bits and search activation scales on the first ``calibration.prompts`` prompts of a job.

    Args:
        unet: the FP graph under the job's plan.
    """
    specs = quantized_specs(layer_specs(unet.structure), job.recipe)
    prompts = _prompts(job)
    return StartingPoint(specs, _bits(job, unet, specs, prompts), *_activation_grids(job, unet, specs, prompts))


def planned_bits(job: QuantizationJob, unet: StepUNet) -> dict[str, int]:
    """Width of every layer that the recipe quantizes, in the order in which they run.

    Args:
        unet: the FP graph under the job's plan.
    """
    return _bits(job, unet, quantized_specs(layer_specs(unet.structure), job.recipe), _prompts(job))


def _bits(job: QuantizationJob, unet: StepUNet, specs: Sequence[LayerSpec], prompts: Sequence[Prompt]) -> dict[str, int]:
    rule = job.recipe.mixed
    if rule is None:
        return weight_bits(specs, job.recipe, None)
    if job.sensitivity is not None:
        return weight_bits(specs, job.recipe, job.sensitivity.by_layer())
    values = rank_on_trajectories(
        unet, job.plan, prompts, job.guidance, job.latent_shape, [spec.name for spec in specs],
        rule.ranking, ranking_bits(job.recipe), job.recipe.weights.search, job.seed, job.progress,
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
    with job.progress.stage("recording activations", len(prompts)) as advance:
        statistics = record_activations(
            unet, job.plan, prompts, job.guidance, job.latent_shape, names, on_prompt=lambda _: advance()
        )
    with job.progress.stage("searching activation scales", 1) as advance:
        grids = statistics.grids(rule.bits, rule)
        advance()
    return grids
