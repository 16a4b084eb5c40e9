"""The loop over a plan's rows: several runs side by side, each from its own seed.

Every loop that draws is this one. A run has the bits that it has alone, whatever runs beside it, when its model outputs do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.noise import gaussian
from s2p_runtime.plan import ImageStart, SamplingPlan

Array32 = NDArray[np.float32]
Predict = Callable[[Array32, int], Array32]
"""(scaled states [K, C, H, W] float32, call index) -> guided model outputs of the same shape"""


def guide_runs(outputs: Array32, guidance: float) -> Array32:
    """Classifier-free guidance ``u + guidance * (c - u)`` of K runs, in float32 (Ho and Salimans 2022, arXiv 2207.12598).

    Args:
        outputs: raw model outputs, float32 [K, B, C, H, W]; B is 2 (unconditional, conditional), or 1 without guidance.

    Returns:
        float32 [K, C, H, W].
    """
    if outputs.shape[1] == 1:
        return outputs[:, 0]
    unconditional, conditional = outputs[:, 0], outputs[:, 1]
    return (unconditional + np.float32(guidance) * (conditional - unconditional)).astype(np.float32)


def guide(outputs: Array32, guidance: float) -> Array32:
    """:func:`guide_runs` of one run: raw outputs [B, C, H, W] -> [1, C, H, W]."""
    return guide_runs(outputs[None], guidance)


def initial_latents(plan: SamplingPlan, seed: int, shape: tuple[int, ...]) -> Array32:
    """``x_0`` of the plan, float32: Philox stream 0 of ``seed`` times ``initial_scale``."""
    return (np.float32(plan.initial_scale) * gaussian(seed, shape)).astype(np.float32)


def picture_latents(start: ImageStart, encoded: Array32, seed: int) -> Array32:
    """``x_call`` of a run from a picture, float32: summed in double and rounded once.

    Args:
        encoded: the picture's latents, float32 [1, C, H, W], see :meth:`s2p_runtime.bundle.LatentSpec.encoded`.
        seed: of the noise, Philox stream 0.
    """
    noise = gaussian(seed, encoded.shape).astype(np.float64)
    return (start.latents * encoded.astype(np.float64) + start.noise * noise).astype(np.float32)


class Walker:
    """The states of K runs of one plan.

    Each row is summed in double in the stored order (states, outputs, noise) and rounded to float32 once, so that every harness
    ends in the same bits when its model does. Between two calls a walk may be left and gone on with.

    Attributes:
        plan: the rows.
        seeds: of the fresh noise, one a run; unused by deterministic plans.
        call: index of the call whose output is awaited; T when the walk is over.
    """

    def __init__(self, plan: SamplingPlan, latents: Array32, seeds: Sequence[int], start: ImageStart | None = None) -> None:
        """
        Args:
            latents: x_0 of every run, float32 [K, C, H, W]; with a start, x of its call.
            seeds: K of them.
            start: where the runs begin; None: at the first call.

        Raises:
            ValueError: another number of seeds than of runs.
        """
        if len(seeds) != latents.shape[0]:
            raise ValueError(f"{len(seeds)} seeds for {latents.shape[0]} runs")
        self.plan = plan if start is None else plan.begun_at(start)
        self.seeds, self.call = tuple(seeds), 0 if start is None else start.call
        self._states: dict[int, Array32] = {self.call: latents}
        self._outputs: dict[int, Array32] = {}

    @classmethod
    def from_seeds(cls, plan: SamplingPlan, seeds: Sequence[int], shape: tuple[int, ...]) -> Walker:
        """Runs that begin at the noise of their seeds.

        Args:
            shape: of one run's latents, [1, C, H, W].
        """
        return cls(plan, np.concatenate([initial_latents(plan, seed, shape) for seed in seeds]), seeds)

    @property
    def finished(self) -> bool:
        """Whether every call was made."""
        return self.call == len(self.plan.calls)

    @property
    def state(self) -> Array32:
        """The present state, float32 [K, C, H, W]; the final one when the walk is over."""
        return self._states[self.call]

    @property
    def scaled(self) -> Array32:
        """What the model sees at this call: ``input_scale`` times the state, float32 [K, C, H, W]."""
        scale = np.float32(self.plan.calls[self.call].input_scale)
        return (scale * self.state).astype(np.float32)

    def advance(self, output: Array32) -> None:
        """Go to the next call with the guided output of this one, float32 [K, C, H, W]."""
        index = self.call
        row = self.plan.calls[index]
        self._outputs[index] = output
        total = np.zeros(self.state.shape, np.float64)
        for k, a in row.states:
            total += a * self._states[k].astype(np.float64)
        for k, b in row.outputs:
            total += b * self._outputs[k].astype(np.float64)
        if row.noise != 0.0:
            total += row.noise * self._noise(index).astype(np.float64)
        self._states[index + 1] = total.astype(np.float32)
        self.call = index + 1
        self._forget()

    def run(self, predict: Predict, until: int | None = None) -> Array32:
        """Go on to the call ``until`` (None: to the end) and return the state there, float32 [K, C, H, W]."""
        last = len(self.plan.calls) if until is None else until
        while self.call < last:
            self.advance(predict(self.scaled, self.call))
        return self.state

    def _noise(self, index: int) -> Array32:
        """Fresh noise of a call, float32 [K, C, H, W]: of each run what it draws alone."""
        shape = (1, *self.state.shape[1:])
        return np.concatenate([gaussian(seed, shape, stream=index + 1) for seed in self.seeds])

    def _forget(self) -> None:
        """Drop the history that no later row uses."""
        later = self.plan.calls[self.call :]
        states = {k for row in later for k, _ in row.states} | {self.call}
        outputs = {k for row in later for k, _ in row.outputs}
        self._states = {k: value for k, value in self._states.items() if k in states}
        self._outputs = {k: value for k, value in self._outputs.items() if k in outputs}


def denoise(plan: SamplingPlan, predict: Predict, latents: Array32, seed: int) -> Array32:
    """Walk all rows of one run from ``latents`` (= x_0), [1, C, H, W] float32, and return the final state."""
    return Walker(plan, latents, [seed]).run(predict)
