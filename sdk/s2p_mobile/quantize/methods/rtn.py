"""Round to nearest: searched scales, no training."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from s2p_converters.core.checkpoint import QuantizedLayer
from s2p_converters.core.graph import LayerSpec
from s2p_converters.core.graph.operators import FloatLayer
from s2p_mobile.quantize.grid import quantize_weight, weight_scale
from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.methods.registry import register
from s2p_mobile.quantize.preparation.starting_point import starting_point
from s2p_mobile.sources.trajectory import float_unet


@register("rtn")
def round_to_nearest(job: QuantizationJob) -> QuantizedUNet:
    """Quantize every layer of the recipe by rounding to the nearest grid point."""
    unet = float_unet(job.model, job.plan, job.structure)
    start = starting_point(job, unet)
    bits, table = start.weight_bits, start.activation_scales
    modules = dict(unet.named_modules())
    layers = {}
    with job.progress.stage("rounding weights", len(start.specs)) as advance:
        for column, spec in enumerate(start.specs):
            module = modules[spec.name]
            assert isinstance(module, FloatLayer)
            layers[spec.name] = round_layer(
                spec, module, bits[spec.name], job.recipe.weights.search, job.recipe.activations.bits,
                None if table is None else table[:, column], start.activation_zeros.get(spec.name, 0),
            )  # fmt: skip
            advance()
    return QuantizedUNet(layers, split_shortcuts=job.recipe.split_shortcuts)


def round_layer(
    spec: LayerSpec,
    layer: FloatLayer,
    bits: int,
    search: str,
    activation_bits: int | None,
    activation_scale: Tensor | None,
    activation_zero: int = 0,
) -> QuantizedLayer:
    """Round one float layer; ``activation_scale`` is its column of the activation table, float32 [T]."""
    weight = layer.weight.data
    scale = weight_scale(weight, bits, search)
    return QuantizedLayer(
        spec=spec,
        weight_bits=bits,
        activation_bits=activation_bits,
        stored=quantize_weight(weight, scale, bits),
        scale=scale.numpy().astype(np.float16),
        bias=None if layer.bias is None else layer.bias.data.numpy().astype(np.float32),
        activation_scale=None if activation_scale is None else activation_scale.numpy().astype(np.float32),
        activation_zero=activation_zero,
    )
