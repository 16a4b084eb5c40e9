"""A step graph as a function of states, for the loop that draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s2p_converters.core.graph import StepUNet

Array32 = NDArray[np.float32]


class Predictor:
    """Raw outputs of a step graph for K runs, where it is and in its own precision. The runs' conditions stay as they are.

    Attributes:
        branches: B, samples of a run.
    """

    def __init__(self, unet: StepUNet, conditions: Sequence[Tensor], samples_at_a_time: int | None = None) -> None:
        """
        Args:
            conditions: float [K, B, ...] each, in the order in which the graph takes them.
            samples_at_a_time: so that memory does not depend on K; None: all at once.
        """
        self.unet = unet
        self._conditions = [condition.to(unet.device, unet.dtype) for condition in conditions]
        self.branches = conditions[0].shape[1]
        runs = conditions[0].shape[0]
        self._runs_at_a_time = runs if samples_at_a_time is None else max(1, samples_at_a_time // self.branches)

    @torch.no_grad()
    def __call__(self, scaled: Array32, call: int) -> Array32:
        """Scaled states [K, C, H, W] -> raw outputs [K, B, C, H, W], float32."""
        return self._gathered([self.unet(*inputs) for inputs in self._inputs(scaled, call)])

    @torch.no_grad()
    def with_features(self, scaled: Array32, call: int) -> tuple[Array32, dict[str, Tensor]]:
        """As a call, and the outputs of the graph's blocks by name, [K, B, ...]."""
        pairs = [self.unet.with_features(*inputs) for inputs in self._inputs(scaled, call)]
        features = {name: torch.cat([named[name] for _, named in pairs]) for name in pairs[0][1]}
        outputs = self._gathered([output for output, _ in pairs])
        return outputs, {name: value.unflatten(0, (-1, self.branches)) for name, value in features.items()}

    def _inputs(self, scaled: Array32, call: int) -> Iterator[tuple[Tensor, ...]]:
        """What the graph is called with, a few runs at a time."""
        device, dtype = self.unet.device, self.unet.dtype
        states, step = torch.from_numpy(scaled).to(device, dtype), torch.tensor([call], device=device)
        for begin in range(0, len(states), self._runs_at_a_time):
            part = slice(begin, begin + self._runs_at_a_time)
            conditions = (condition[part].flatten(0, 1) for condition in self._conditions)
            yield states[part].repeat_interleave(self.branches, dim=0), step, *conditions

    def _gathered(self, outputs: Sequence[Tensor]) -> Array32:
        found: Array32 = torch.cat(list(outputs)).unflatten(0, (-1, self.branches)).to("cpu", torch.float32).numpy()
        return found
