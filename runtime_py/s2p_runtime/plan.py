"""The sampler as data: one sparse linear row per U-Net call, and the loop that walks the rows.

For call ``i`` the U-Net sees ``input_scale * x_i`` at ``timestep`` and answers ``e_i`` (after guidance). Then
``x_{i+1} = sum a_k x_k + sum b_k e_k + noise * z_i`` with ``(k, a_k)`` in ``states``, ``(k, b_k)`` in ``outputs`` and
``k <= i``. ``x_0 = initial_scale * z``. The prediction type (epsilon, v, sample) is part of the coefficients.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from s2p_runtime.contract import Contract
from s2p_runtime.noise import gaussian

Term = tuple[int, float]
"""(index into the history, coefficient)"""


class PlanCall(Contract):
    """One U-Net call and the row that follows it."""

    timestep: float = Field(description="what the original U-Net was told; the harness passes the call's index instead")
    input_scale: float = Field(description="factor on the state before it enters the U-Net")
    states: tuple[Term, ...]
    outputs: tuple[Term, ...]
    noise: float = Field(description="factor of fresh noise z_i (Philox stream i + 1); 0 when deterministic")


class SamplingPlan(Contract):
    """All calls of one sampler at one number of steps."""

    scheduler: str
    steps: int = Field(ge=1, description="steps as a user counts them; PNDM makes one call more")
    prediction_type: str
    initial_scale: float = Field(gt=0)
    calls: tuple[PlanCall, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rows_look_back_only(self) -> SamplingPlan:
        for index, call in enumerate(self.calls):
            for k, _ in (*call.states, *call.outputs):
                if not 0 <= k <= index:
                    raise ValueError(f"row of call {index} refers to call {k}")
        return self

    @property
    def timesteps(self) -> list[float]:
        """Timestep of every call, in order."""
        return [call.timestep for call in self.calls]


Array32 = NDArray[np.float32]
Predict = Callable[[Array32, int], Array32]
"""(scaled state [1, C, H, W] float32, call index) -> guided model output of the same shape"""


def guide(outputs: Array32, guidance: float) -> Array32:
    """Classifier-free guidance on a batch of two, [unconditional, conditional]: ``u + guidance * (c - u)``, shape [1, ...].

    A batch of one (no guidance) is returned as it is. Computed in float32.
    """
    if outputs.shape[0] == 1:
        return outputs
    unconditional, conditional = outputs[:1], outputs[1:]
    return (unconditional + np.float32(guidance) * (conditional - unconditional)).astype(np.float32)


def initial_latents(plan: SamplingPlan, seed: int, shape: tuple[int, ...]) -> Array32:
    """``x_0`` of the plan, float32: Philox stream 0 of ``seed`` times ``initial_scale``."""
    return (np.float32(plan.initial_scale) * gaussian(seed, shape)).astype(np.float32)


def denoise(
    plan: SamplingPlan,
    predict: Predict,
    latents: Array32,
    seed: int,
    on_call: Callable[[int, Array32, Array32], None] | None = None,
) -> Array32:
    """Walk all rows from ``latents`` (= x_0) and return the final state, float32.

    Each row is summed in double in the stored order (states, outputs, noise) and rounded to float32 once, so that every
    harness ends in the same bits when its U-Net does.

    Args:
        plan: the rows.
        predict: the guided model.
        latents: x_0, [1, C, H, W] float32.
        seed: of the fresh noise; unused by deterministic plans.
        on_call: called with (index, scaled input, guided output) after each call.
    """
    last_use = _last_use(plan)
    states: dict[int, Array32] = {0: latents}
    outputs: dict[int, Array32] = {}
    for index, call in enumerate(plan.calls):
        scaled = (np.float32(call.input_scale) * states[index]).astype(np.float32)
        outputs[index] = predict(scaled, index)
        if on_call is not None:
            on_call(index, scaled, outputs[index])
        total = np.zeros(latents.shape, np.float64)
        for k, a in call.states:
            total += a * states[k].astype(np.float64)
        for k, b in call.outputs:
            total += b * outputs[k].astype(np.float64)
        if call.noise != 0.0:
            total += call.noise * gaussian(seed, latents.shape, stream=index + 1).astype(np.float64)
        states[index + 1] = total.astype(np.float32)
        for history, kind in ((states, "x"), (outputs, "e")):
            for k in [k for k in history if k <= index and last_use.get((kind, k), -1) <= index]:
                del history[k]
    return states[len(plan.calls)]


def _last_use(plan: SamplingPlan) -> dict[tuple[str, int], int]:
    uses: dict[tuple[str, int], int] = {}
    for index, call in enumerate(plan.calls):
        uses.update({("x", k): index for k, _ in call.states})
        uses.update({("e", k): index for k, _ in call.outputs})
    return uses
