"""Output error of one quantized layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from s2p_converters.unet import StepUNet
from s2p_converters.unet.operators import FloatLayer
from s2p_mobile.quantization.grid import quantize_weight, weight_scale


@torch.no_grad()
def output_noise(
    unet: StepUNet,
    calls: Sequence[tuple[int, Tensor, Tensor, Tensor]],
    names: Sequence[str],
    bits: int,
    search: str,
    on_layer: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Noise-to-signal ratio of the U-Net's output when only one layer's weights are rounded (the inverse of SQNR).

    Args:
        unet: FP graph; each layer is restored after its turn.
        calls: (call index, sample [B, C, H, W], text embedding [B, N, D], FP output [B, C, H, W]).
        names: layers to try.
        bits, search: the weight grid.

    Returns:
        layer -> sum |e_q - e|^2 / sum |e|^2 over all calls.
    """
    modules = dict(unet.named_modules())
    signal = sum(float(output.double().square().sum()) for *_, output in calls)
    noise = {}
    for index, name in enumerate(names):
        layer = modules[name]
        assert isinstance(layer, FloatLayer)
        original = layer.weight.data
        scale = weight_scale(original, bits, search)
        integers = torch.from_numpy(quantize_weight(original, scale, bits)).float()
        layer.weight.data = integers * scale.reshape(-1, *([1] * (original.dim() - 1)))
        error = 0.0
        for call, sample, embedding, output in calls:
            error += float((unet(sample, torch.tensor([call]), embedding) - output).double().square().sum())
        layer.weight.data = original
        noise[name] = error / signal
        if on_layer is not None:
            on_layer(index)
    return noise
