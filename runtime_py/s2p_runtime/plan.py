"""The sampler as data: one sparse linear row per U-Net call. :mod:`s2p_runtime.walker` walks the rows.

For call ``i`` the U-Net sees ``input_scale * x_i`` at ``timestep`` and answers ``e_i`` (after guidance). Then
``x_{i+1} = sum a_k x_k + sum b_k e_k + noise * z_i`` with ``(k, a_k)`` in ``states``, ``(k, b_k)`` in ``outputs`` and
``k <= i``. ``x_0 = initial_scale * z``. The prediction type (epsilon, v, sample) is part of the coefficients. A run from a picture
begins at a later call, see :class:`ImageStart`.
"""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from s2p_runtime.contract import Contract
from s2p_runtime.errors import S2PError

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

    def begun_at(self, start: ImageStart) -> SamplingPlan:
        """The plan of a run that begins at ``start``; calls before it are not made and their rows mean nothing."""
        end = start.call + len(start.rows)
        calls = (*self.calls[: start.call], *start.rows, *self.calls[end:])
        return self.model_copy(update={"calls": calls})

    @property
    def timesteps(self) -> list[float]:
        """Timestep of every call, in order."""
        return [call.timestep for call in self.calls]


class ImageStart(Contract):
    """How a run begins at a later call, from a picture in place of noise.

    ``x_call = latents * E + noise * z``, with ``E`` the encoded picture and ``z`` the noise that ``x_0`` is made of.
    """

    call: int = Field(ge=0, description="the first that is made")
    latents: float = Field(description="factor of the encoded picture")
    noise: float = Field(description="factor of the initial noise, Philox stream 0")
    rows: tuple[PlanCall, ...] = Field(
        description="in place of the plan's from this call on: samplers that look back have nothing behind them yet"
    )


def check_image_starts(plan: SamplingPlan, starts: tuple[ImageStart, ...]) -> None:
    """Raise ``ValueError`` when starts do not belong to a plan: one to each step, and no row that looks behind its start."""
    if len(starts) != plan.steps:
        raise ValueError(f"image_starts: {len(starts)} for {plan.steps} steps")
    reached = [_reach(call, index) for index, call in enumerate(plan.calls)]
    for number, start in enumerate(starts):
        end = start.call + len(start.rows)
        if start.call >= len(plan.calls) or end > len(plan.calls):
            raise ValueError(f"image_starts: start {number} lies behind the last call")
        for index, row in enumerate(start.rows, start.call):
            if any(not start.call <= k <= index for k, _ in (*row.states, *row.outputs)):
                raise ValueError(f"image_starts: the row of call {index} refers to what start {number} does not have")
            if row.timestep != plan.calls[index].timestep or row.input_scale != plan.calls[index].input_scale:
                raise ValueError(f"image_starts: start {number} tells call {index} something else than the plan")
        for index in range(end, len(plan.calls)):
            if reached[index] < start.call:
                raise ValueError(f"image_starts: the row of call {index} refers to what start {number} does not have")


def _reach(call: PlanCall, index: int) -> int:
    """The earliest call that a row refers to."""
    return min((k for k, _ in (*call.states, *call.outputs)), default=index)


def skipped_steps(steps: int, strength: float) -> int:
    """How many steps of a plan a picture to start from saves, as diffusers' ``get_timesteps`` counts them.

    Args:
        strength: share of the steps that is made, above 0 and at most 1, which begins at the first.

    Raises:
        S2PError: out of range, or so little that no step is left.
    """
    if not 0 < strength <= 1:
        raise S2PError(f"strength {strength:g} is out of range", "give a number above 0, at most 1", "strength")
    made = int(steps * strength)
    if made == 0:
        least = math.ceil(1000 / steps) / 1000
        raise S2PError(f"strength {strength:g} leaves none of {steps} steps", f"give {least:g} or more", "strength")
    return steps - made
