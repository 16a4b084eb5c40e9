"""Selective freezing: weights whose rounding keeps flipping are fixed at the integer they hold most of the time.

Our stand-in for the paper's rule. The moving averages are those of Nagel et al., "Overcoming Oscillations in
Quantization-Aware Training" (ICML 2022); the threshold that decays by a cosine is SSVQ's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from s2p_mobile.quantize.recipes.training import FreezingRule
from s2p_mobile.quantize.student.layers import TrainedLayer


class OscillationTracker:
    """Follows the moving averages of flips and integers of every weight, which lie in the layers: five bytes a weight."""

    def __init__(self, layers: Mapping[str, TrainedLayer], rule: FreezingRule) -> None:
        self.layers, self.rule = layers, rule

    @torch.no_grad()
    def update(self, iteration: int, iterations: int) -> None:
        """Look at the integers after optimizer step ``iteration`` (0-based) of ``iterations``; freeze when a check is due."""
        check = (iteration + 1) % self.rule.every == 0
        threshold = self.threshold(iteration / iterations)
        for layer in self.layers.values():
            held, flips, drift = layer.held, layer.flips, layer.drift
            if held is None or flips is None or drift is None:
                continue
            integers, frozen = layer.integers(), flips < 0
            rates = flips.float().lerp_((integers != held).float(), self.rule.momentum)
            # The average moves towards the new integer, and is kept relative to it: float16 holds such small numbers well.
            drift.copy_((drift.float() + (held.float() - integers.float())).mul_(1 - self.rule.momentum))
            held.copy_(integers)
            if check:
                new = (rates > threshold) & ~frozen
                held.copy_(torch.where(new, (held.float() + drift.float()).round_(), held.float()))
                frozen |= new
            flips.copy_(rates.masked_fill_(frozen, -1.0))

    def threshold(self, position: float) -> float:
        """Flip rate above which a weight is frozen at ``position`` in [0, 1] of the run."""
        start, end = self.rule.start, self.rule.end
        return end + (start - end) * 0.5 * (1 + math.cos(math.pi * position))

    @property
    def frozen_share(self) -> float:
        """Share of all quantized weights that are frozen."""
        frozen = [layer.frozen for layer in self.layers.values()]
        total = sum(mask.numel() for mask in frozen if mask is not None)
        return sum(int(mask.sum()) for mask in frozen if mask is not None) / total if total else 0.0
