"""A quantization method: rounding to nearest on scales that are powers of two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from s2p_converters.core.checkpoint import QuantizedLayer
from s2p_converters.core.graph.operators import FloatLayer
from s2p_mobile.quantize.grid import quantize_weight
from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.methods import Method
from s2p_mobile.quantize.preparation.starting_point import starting_point, starting_stages
from s2p_mobile.quantize.stages import Stage, on_host
from s2p_mobile.sources.trajectory import float_unet

STAGE = "rounding to powers of two"


class PowersOfTwo(Method):
    """Bits and activation scales are found as for every method; a weight scale is the smallest power of two that clips nothing."""

    name = "toy"
    title = "rounding to nearest on scales that are powers of two"

    def run(self, job: QuantizationJob) -> QuantizedUNet:
        """See :class:`Method`."""
        unet = float_unet(job.model, job.plan, job.structure)
        start = starting_point(job, unet)
        modules, layers = dict(unet.named_modules()), {}
        with job.progress.stage(STAGE, len(start.specs)) as advance:
            for column, spec in enumerate(start.specs):
                module, bits = modules[spec.name], start.weight_bits[spec.name]
                assert isinstance(module, FloatLayer)
                scale = power_of_two_scale(module.weight.data, bits)
                table = start.activation_scales
                layers[spec.name] = QuantizedLayer(
                    spec=spec,
                    weight_bits=bits,
                    activation_bits=job.recipe.activations.bits,
                    stored=quantize_weight(module.weight.data, scale, bits),
                    scale=scale.numpy().astype(np.float16),
                    bias=None if module.bias is None else module.bias.data.numpy().astype(np.float32),
                    activation_scale=None if table is None else table[:, column].numpy().astype(np.float32),
                    activation_zero=start.activation_zeros.get(spec.name, 0),
                )
                advance()
        return QuantizedUNet(layers, split_shortcuts=job.recipe.split_shortcuts)

    def stages(self, job: QuantizationJob) -> Sequence[Stage]:
        """See :class:`Method`."""
        return on_host([*starting_stages(job), Stage(STAGE, len(job.layers))])


def power_of_two_scale(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """float32 [C_out]: the smallest power of two with which no weight [C_out, ...] leaves the symmetric grid of a bit-width."""
    largest = weight.flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(torch.float16).tiny)
    return torch.exp2(torch.ceil(torch.log2(largest / (2 ** (bits - 1) - 1))))


TOY = PowersOfTwo()
