"""Round to nearest: searched scales, no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from s2p_converters.checkpoint import QuantizedLayer
from s2p_converters.unet import LayerSpec, StepUNet, layer_specs
from s2p_converters.unet.operators import FloatLayer
from s2p_mobile.methods.registry import QuantizationJob, register
from s2p_mobile.quantization.bits import LayerValues, quantized_specs, ranking_bits, weight_bits
from s2p_mobile.quantization.calibration import record_activations
from s2p_mobile.quantization.grid import quantize_weight, weight_scale
from s2p_mobile.sensitivity import rank_on_trajectories
from s2p_mobile.trajectory import Prompt, encode_prompt, float_unet


@register("rtn")
def round_to_nearest(job: QuantizationJob) -> Mapping[str, QuantizedLayer]:
    """Quantize every layer of the recipe by rounding to the nearest grid point."""
    unet = float_unet(job.model, job.plan)
    specs = quantized_specs(layer_specs(job.model.structure), job.recipe)
    prompts = [
        encode_prompt(job.model, text, job.seed + k, job.guidance)
        for k, text in enumerate(job.prompts[: job.recipe.calibration.prompts])
    ]
    bits = weight_bits(specs, job.recipe, _sensitivity(job, unet, specs, prompts))
    table = _activation_table(job, unet, specs, prompts)
    modules = dict(unet.named_modules())
    layers = {}
    with job.progress.stage("rounding weights", len(specs)) as advance:
        for column, spec in enumerate(specs):
            module = modules[spec.name]
            assert isinstance(module, FloatLayer)
            layers[spec.name] = round_layer(
                spec, module, bits[spec.name], job.recipe.weights.search, job.recipe.activations.bits,
                None if table is None else table[:, column],
            )  # fmt: skip
            advance()
    return layers


def round_layer(
    spec: LayerSpec, layer: FloatLayer, bits: int, search: str, activation_bits: int | None, activation_scale: Tensor | None
) -> QuantizedLayer:
    """Round one float layer; ``activation_scale`` is its column of the activation table, float32 [T]."""
    weight = layer.weight.data
    scale = weight_scale(weight, bits, search)
    return QuantizedLayer(
        spec=spec,
        weight_bits=bits,
        activation_bits=activation_bits,
        integers=quantize_weight(weight, scale, bits),
        scale=scale.numpy().astype(np.float16),
        bias=None if layer.bias is None else layer.bias.data.numpy().astype(np.float32),
        activation_scale=None if activation_scale is None else activation_scale.numpy().astype(np.float32),
    )


def _activation_table(
    job: QuantizationJob, unet: StepUNet, specs: Sequence[LayerSpec], prompts: Sequence[Prompt]
) -> Tensor | None:
    rule = job.recipe.activations
    if rule.bits is None:
        return None
    names = [spec.name for spec in specs]
    with job.progress.stage("recording activations", len(prompts)) as advance:
        statistics = record_activations(
            unet, job.plan, prompts, job.guidance, job.latent_shape, names, on_prompt=lambda _: advance()
        )
    with job.progress.stage("searching activation scales", 1) as advance:
        table = statistics.scales(dict.fromkeys(names, rule.bits), rule.search, rule.percentile, rule.per_step)
        advance()
    return table


def _sensitivity(
    job: QuantizationJob, unet: StepUNet, specs: Sequence[LayerSpec], prompts: Sequence[Prompt]
) -> LayerValues | None:
    """What a mixed recipe needs to know of every layer; None without a ``mixed`` rule."""
    rule = job.recipe.mixed
    if rule is None:
        return None
    return rank_on_trajectories(
        unet, job.plan, prompts, job.guidance, job.latent_shape, [spec.name for spec in specs],
        rule.ranking, ranking_bits(job.recipe), job.recipe.weights.search, job.seed, job.progress,
    )  # fmt: skip
