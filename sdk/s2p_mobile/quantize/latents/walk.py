"""Several prompts through a sampling plan side by side, one call at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.noise import gaussian
from s2p_runtime.plan import SamplingPlan, initial_latents

Array32 = NDArray[np.float32]


class Walk:
    """The states of K runs of one plan, each from its own seed.

    The arithmetic is that of :func:`s2p_runtime.plan.denoise` (rows in double, one rounding to float32), so every run has the
    bits that it has alone. ``denoise`` asks for outputs; here the caller brings them, so that a loop can stop between calls.
    """

    def __init__(self, plan: SamplingPlan, seeds: Sequence[int], shape: tuple[int, ...]) -> None:
        """
        Args:
            plan: the rows.
            seeds: one per run, K of them.
            shape: of one latent, [1, C, H, W].
        """
        self.plan, self.seeds, self.shape = plan, list(seeds), shape
        self.call = 0
        """Index of the call whose output is awaited; T when the walk is over."""
        self._states = {0: np.concatenate([initial_latents(plan, seed, shape) for seed in seeds])}
        self._outputs: dict[int, Array32] = {}

    @property
    def state(self) -> Array32:
        """The present state, float32 [K, C, H, W]; the final one when the walk is over."""
        return self._states[self.call]

    @property
    def scaled(self) -> Array32:
        """What the U-Net sees at this call: ``input_scale`` times the state, float32 [K, C, H, W]."""
        scale = np.float32(self.plan.calls[self.call].input_scale)
        return (scale * self.state).astype(np.float32)

    def advance(self, output: Array32) -> None:
        """Go to the next call with the guided output of this one, float32 [K, C, H, W]."""
        index = self.call
        row = self.plan.calls[index]
        self._outputs[index] = output
        total = np.zeros(output.shape, np.float64)
        for k, a in row.states:
            total += a * self._states[k].astype(np.float64)
        for k, b in row.outputs:
            total += b * self._outputs[k].astype(np.float64)
        if row.noise != 0.0:
            noise = np.concatenate([gaussian(seed, self.shape, stream=index + 1) for seed in self.seeds])
            total += row.noise * noise.astype(np.float64)
        self._states[index + 1] = total.astype(np.float32)
        self.call = index + 1
        self._forget()

    def _forget(self) -> None:
        """Drop the history that no later row uses."""
        later = self.plan.calls[self.call :]
        states = {k for row in later for k, _ in row.states} | {self.call}
        outputs = {k for row in later for k, _ in row.outputs}
        self._states = {k: value for k, value in self._states.items() if k in states}
        self._outputs = {k: value for k, value in self._outputs.items() if k in outputs}


def guide_pairs(outputs: Array32, guidance: float) -> Array32:
    """Guided outputs of K runs from the raw outputs [K, B, C, H, W]; B is 2 (unconditional first) or 1 -> [K, C, H, W]."""
    if outputs.shape[1] == 1:
        return outputs[:, 0]
    unconditional, conditional = outputs[:, 0], outputs[:, 1]
    return (unconditional + np.float32(guidance) * (conditional - unconditional)).astype(np.float32)
