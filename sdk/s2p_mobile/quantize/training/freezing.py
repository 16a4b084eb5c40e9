"""Selective freezing: weights whose rounding keeps flipping are fixed at the integer they hold most of the time.

Our stand-in for the paper's rule. The moving averages are those of Nagel et al., "Overcoming Oscillations in
Quantization-Aware Training" (ICML 2022); the threshold that decays by a cosine is SSVQ's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from s2p_mobile.quantize.recipes.training import FreezingRule
from s2p_mobile.quantize.student.fake_quant import TrainedLayer


class OscillationTracker:
    """Moving averages of flips and integers of every weight.

    Attributes:
        tensors: the whole state by name, for saving: per layer ``last`` int8, ``flips`` and ``average`` float32.
    """

    def __init__(self, layers: Mapping[str, TrainedLayer], rule: FreezingRule) -> None:
        self.layers, self.rule = layers, rule
        self.tensors: dict[str, Tensor] = {}
        for name, layer in layers.items():
            integers = layer.integers()
            self.tensors[f"{name}.last"] = integers
            self.tensors[f"{name}.flips"] = torch.zeros(integers.shape, device=integers.device)
            self.tensors[f"{name}.average"] = integers.float()

    @torch.no_grad()
    def update(self, iteration: int, iterations: int) -> None:
        """Look at the integers after optimizer step ``iteration`` (0-based) of ``iterations``; freeze when a check is due."""
        momentum = self.rule.momentum
        check = (iteration + 1) % self.rule.every == 0
        threshold = self.threshold(iteration / iterations)
        for name, layer in self.layers.items():
            last, flips, average = (self.tensors[f"{name}.{part}"] for part in ("last", "flips", "average"))
            integers = layer.integers()
            flips.lerp_((integers != last).to(flips.dtype), momentum)
            average.lerp_(integers.to(average.dtype), momentum)
            last.copy_(integers)
            if check and layer.frozen is not None and layer.held is not None:
                new = (flips > threshold) & ~layer.frozen
                layer.held[new] = average[new].round().to(torch.int8)
                layer.frozen |= new

    def threshold(self, position: float) -> float:
        """Flip rate above which a weight is frozen at ``position`` in [0, 1] of the run."""
        start, end = self.rule.start, self.rule.end
        return end + (start - end) * 0.5 * (1 + math.cos(math.pi * position))

    @property
    def frozen_share(self) -> float:
        """Share of all quantized weights that are frozen."""
        masks = [layer.frozen for layer in self.layers.values() if layer.frozen is not None]
        total = sum(mask.numel() for mask in masks)
        return sum(int(mask.sum()) for mask in masks) / total if total else 0.0
