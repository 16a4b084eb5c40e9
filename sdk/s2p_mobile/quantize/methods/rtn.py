"""Round to nearest: searched scales, no training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from s2p_converters.core.checkpoint import QuantizedLayer
from s2p_converters.core.graph import LayerSpec
from s2p_converters.core.graph.operators import FloatLayer
from s2p_mobile.quantize.grid import quantize_weight, search_pieces, weight_scale
from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.methods.method import Method
from s2p_mobile.quantize.preparation.starting_point import starting_point, starting_stages
from s2p_mobile.quantize.stages import Stage
from s2p_mobile.quantize.workers import choose_device
from s2p_mobile.sources.trajectory import float_unet

ROUNDING_STAGE = "rounding weights"


class RoundToNearest(Method):
    """Round to nearest."""

    name = "rtn"
    title = "rounding to nearest on searched grids, no training"

    def run(self, job: QuantizationJob) -> QuantizedUNet:
        """Quantize every layer of the recipe by rounding to the nearest grid point."""
        unet = float_unet(job.model, job.plan, job.structure).to(choose_device(job.device))
        start = starting_point(job, unet)
        unet.to("cpu")
        bits, table = start.weight_bits, start.activation_scales
        modules = dict(unet.named_modules())
        layers = {}
        with job.progress.stage(ROUNDING_STAGE, len(start.specs)) as advance:
            for column, spec in enumerate(start.specs):
                module = modules[spec.name]
                assert isinstance(module, FloatLayer)
                floats = table is None or spec.name in start.float_inputs
                layers[spec.name] = round_layer(
                    spec, module, bits[spec.name], job.recipe.weights.search,
                    None if floats else job.recipe.activations.bits, None if table is None or floats else table[:, column],
                    0 if floats else start.activation_zeros.get(spec.name, 0),
                )  # fmt: skip
                advance()
        return QuantizedUNet(layers, split_shortcuts=job.recipe.split_shortcuts)

    def stages(self, job: QuantizationJob) -> Sequence[Stage]:
        """See :class:`Method`."""
        return [*starting_stages(job), rounding_stage(job.layers, job.recipe.weights.search)]


def rounding_stage(layers: Sequence[LayerSpec], search: str) -> Stage:
    """:func:`round_layer` for each layer."""
    return Stage(
        ROUNDING_STAGE, len(layers), work=search_pieces([layer.weight_shape for layer in layers], search, on_host=True)
    )


def round_layer(
    spec: LayerSpec,
    layer: FloatLayer,
    bits: int,
    search: str,
    activation_bits: int | None,
    activation_scale: Tensor | None,
    activation_zero: int = 0,
    learned: Tensor | None = None,
) -> QuantizedLayer:
    """Round one float layer.

    Args:
        activation_scale: its column of the activation table, float32 [T].
        learned: weights to round on the float layer's grid instead of its own, float32.
    """
    scale = weight_scale(layer.weight.data, bits, search)
    weight = layer.weight.data if learned is None else learned
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


RTN = RoundToNearest()
