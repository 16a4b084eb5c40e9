"""What Core ML Tools compresses weights to for the newest systems, activations in float (docs/method-baselines.md): four bits on
symmetric grids in blocks of 32 input channels, and palettes of four bits in groups of 32 output channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s2p_converters.core.graph import LayerSpec, layer_specs
from s2p_converters.core.graph.operators import FloatLayer
from s2p_converters.core.grids import AffineWeight, GeneralLayer, LayerPart, Palette
from s2p_mobile.quantize.holdings import holding, weights_of
from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.methods.baselines.inputs import Baseline
from s2p_mobile.quantize.rounding.palettes import palettize_weight
from s2p_mobile.quantize.stages import Stage
from s2p_mobile.quantize.stages.weights import weight_pieces
from s2p_mobile.sources.trajectory import float_unet

BITS = 4
TOGETHER = 32
"""Input channels of a block, output channels of a group."""
COMPRESSING_STAGE = "compressing weights"

Compressed = AffineWeight | Palette
Compress = Callable[[NDArray[np.float32]], Compressed | None]


def int4_blocks(weight: NDArray[np.float32]) -> AffineWeight | None:
    """Symmetric grids of 4 bits, one for each output channel and block of 32 input channels, over the positions of a kernel.

    Core ML Tools' ``linear_symmetric``, ``int4``, ``per_block``, 32: the scale is the largest magnitude over 7, integers go from -7
    to 7. None where the input channels do not make whole blocks; Core ML Tools leaves such a layer alone.
    """
    rows, channels = weight.shape[:2]
    if channels % TOGETHER:
        return None
    blocks = weight.reshape(rows, channels // TOGETHER, -1)
    top = 2 ** (BITS - 1) - 1
    scale = np.abs(blocks).max(axis=2, keepdims=True) / np.float32(top)
    # A block of zeros has no range; any positive scale gives zeros.
    scale[scale == 0] = 1.0
    integers = np.clip(np.round(blocks / scale), -top, top) + 2 ** (BITS - 1)
    stored = np.maximum(scale[..., 0].astype(np.float16), np.finfo(np.float16).smallest_subnormal)
    zero = np.full(rows, 2 ** (BITS - 1), np.uint8)
    return AffineWeight(BITS, integers.reshape(weight.shape).astype(np.uint8), stored, zero)


def grouped_palettes(weight: NDArray[np.float32]) -> Palette | None:
    """k-means palettes of 4 bits, one for 32 output channels; None where these do not make whole groups, as :func:`int4_blocks`."""
    rows = weight.shape[0]
    if rows % TOGETHER:
        return None
    parts = [palettize_weight(group, BITS) for group in np.split(weight, rows // TOGETHER)]
    return Palette(BITS, np.concatenate([part.indices for part in parts]), np.concatenate([part.entries for part in parts]))


@dataclass(frozen=True)
class Preset(Baseline):
    """Every layer of the recipe alike, its weights alone; the recipe's widths and activations do not matter.

    Attributes:
        compress: a layer's weights [C_out, C_in, ...]; None leaves the layer in float.
        axis: of the weights whose channels must make whole groups; else the layer is left.
    """

    name: str
    title: str
    compress: Compress
    axis: int

    def run(self, job: QuantizationJob) -> QuantizedUNet:
        """Compress the weights; no calls of the network are looked at."""
        unet = float_unet(job.model, job.plan)
        names = {layer.name for layer in job.layers}
        specs = [spec for spec in layer_specs(job.structure) if spec.name in names]
        modules = dict(unet.named_modules())
        general = {}
        with job.progress.stage(COMPRESSING_STAGE, len(specs)) as advance:
            for spec in specs:
                module = modules[spec.name]
                assert isinstance(module, FloatLayer)
                weight = self.compress(module.weight.data.float().numpy())
                if weight is not None:
                    bias = None if module.bias is None else module.bias.data.numpy().astype(np.float32)
                    general[spec.name] = GeneralLayer(spec, (LayerPart(spec.in_channels, weight),), bias)
                advance()
        return QuantizedUNet({}, general=general)

    def stages(self, job: QuantizationJob) -> Sequence[Stage]:
        """See :class:`~s2p_mobile.quantize.methods.method.Method`."""
        layers: list[LayerSpec] = job.layers
        shapes = [layer.weight_shape for layer in layers]
        work = weight_pieces(self.title, shapes, lambda weight: self.compress(_whole_groups(weight.cpu().numpy())))
        # An index and scales for each weight.
        memory = holding(job, {}, {"compressed weights": 2 * weights_of(job)})
        return [Stage(COMPRESSING_STAGE, len(layers), work=work, memory=memory)]

    def widths(self, job: QuantizationJob) -> dict[str, int]:
        """See :class:`~s2p_mobile.quantize.methods.method.Method`."""
        return {layer.name: BITS for layer in job.layers if layer.weight_shape[self.axis] % TOGETHER == 0}

    def disk(self, job: QuantizationJob) -> dict[str, int]:
        """See :class:`~s2p_mobile.quantize.methods.method.Method`."""
        return {}


def _whole_groups(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """As many output channels as make whole groups, at least: a part of a large layer is timed."""
    rows = -(-weight.shape[0] // TOGETHER) * TOGETHER
    return np.resize(weight, (rows, *weight.shape[1:]))


INT4_BLOCKS = Preset("int4-blocks", "int4 in blocks of 32 input channels, float activations", int4_blocks, axis=1)
GROUPED_PALETTES = Preset(
    "grouped-palettes", "4-bit palettes in groups of 32 output channels, float activations", grouped_palettes, axis=0
)
