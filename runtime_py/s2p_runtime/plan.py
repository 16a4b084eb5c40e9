"""The sampler as data: one sparse linear row per U-Net call. :mod:`s2p_runtime.walker` walks the rows.

For call ``i`` the U-Net sees ``input_scale * x_i`` at ``timestep`` and answers ``e_i`` (after guidance). Then
``x_{i+1} = sum a_k x_k + sum b_k e_k + noise * z_i`` with ``(k, a_k)`` in ``states``, ``(k, b_k)`` in ``outputs`` and
``k <= i``. ``x_0 = initial_scale * z``. The prediction type (epsilon, v, sample) is part of the coefficients.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from s2p_runtime.contract import Contract

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
