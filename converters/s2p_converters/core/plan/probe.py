"""Extract a sampling plan from a diffusers scheduler by feeding it unit vectors.

A linear scheduler maps states ``x_k``, model outputs ``e_k`` and fresh noise ``z_i`` to the next state. Here the "tensors" it
is given are vectors over the basis {x_0..x_T, e_0..e_{T-1}, z_0..z_{T-1}}: at call i the sample is the unit vector of ``x_i``,
the model output that of ``e_i``, the drawn noise that of ``z_i``. Whatever history the scheduler keeps is then itself a
combination of basis vectors, and the coordinates of its answer are the row of call i. Nothing of a scheduler is written here.

UniPC alone needs more: its predictor starts from a corrected state ``c_i``, itself computed from ``c_{i-1}``, which would make
every row refer to the whole past. ``c_i`` is made a basis vector too and eliminated exactly: the row of ``x_i`` is
``P c_{i-1} + ...`` with a known P, so ``c_{i-1}`` is ``(x_i - ...) / P``, and rows stay as short as the solver's order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from s2p_converters.core.plan.double import double_precision, noise_from
from s2p_converters.core.plan.registry import scheduler_classes
from s2p_runtime.errors import S2PError
from s2p_runtime.plan import PlanCall, SamplingPlan

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

# Options that make a step something other than a fixed linear map of states, outputs and noise: what to set instead.
_OFF = {
    "clip_sample": False,
    "thresholding": False,
    "use_dynamic_shifting": False,
    "use_flow_sigmas": False,
    "solver_p": None,
}
_AGAINST_DIVISION = {"lower_order_final": True, "final_sigmas_type": "sigma_min", "rescale_betas_zero_snr": False}
"""Settings of multistep schedulers that keep the noise level 0 out of a division."""
# Settings under which the model must predict its variance as well, or the variance is read from the model.
_LEARNED_VARIANCE = ("learned", "learned_range")

_LARGEST_GROWTH = 1e-4 * 2.0**24
"""Largest factor of an earlier state in a row. Devices keep states in float32, 2^-24 of which is rounding: a larger factor makes
more of it than the relative 1e-4 that a model is held to."""
_NEGLIGIBLE = 1e-300
_LINEAR = 1e-10
_CORRECTOR = "multistep_uni_c_bh_update"

Vector = NDArray[np.float64]


class _Basis:
    """Positions of the symbols in a vector for T calls: x_0..x_T, then e, z and c with T each."""

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.size = 4 * calls + 1

    def x(self, index: int) -> int:
        return index

    def e(self, index: int) -> int:
        return self.calls + 1 + index

    def z(self, index: int) -> int:
        return 2 * self.calls + 1 + index

    def c(self, index: int) -> int:
        return 3 * self.calls + 1 + index

    def unit(self, position: int) -> Vector:
        vector = np.zeros(self.size)
        vector[position] = 1.0
        return vector


def _tensor(vector: Vector) -> torch.Tensor:
    """As a batch of one picture with one row and one column, since schedulers expect four dimensions: [1, size, 1, 1]."""
    return torch.from_numpy(vector.copy()).reshape(1, -1, 1, 1)


def _vector(tensor: torch.Tensor) -> Vector:
    return np.asarray(tensor.detach().reshape(-1).numpy(), np.float64).copy()


def extract_plan(scheduler: Any, steps: int) -> SamplingPlan:
    """The rows of ``scheduler`` for ``steps`` inference steps, in float64.

    Args:
        scheduler: a diffusers scheduler; only its class and configuration are used, it is not changed.
        steps: inference steps as a user counts them, 1 to the scheduler's ``num_train_timesteps``.

    Raises:
        S2PError: class or prediction type not supported, an option that makes the scheduler non-linear, a number of steps it
            cannot do, rows that are not finite or multiply a state beyond its float32 digits, or a scheduler that does not obey its
            own rows.
    """
    name = type(scheduler).__name__
    _refuse_unsupported(scheduler, steps)
    double = double_precision(scheduler)
    # The timesteps come from the class as it is: they are what the original U-Net is told, float32 rounding included.
    told = type(scheduler).from_config(scheduler.config)
    with refusals(name, steps):
        told.set_timesteps(steps)
        double.set_timesteps(steps)
        calls = list(probe_calls(double, [float(t) for t in told.timesteps]))
        initial_scale = float(double.init_noise_sigma)
    if not np.isfinite(initial_scale):
        raise S2PError(f"{name} starts from an infinite noise level", "set rescale_betas_zero_snr to false")
    plan = SamplingPlan(
        scheduler=name,
        steps=steps,
        prediction_type=scheduler.config.prediction_type,
        initial_scale=initial_scale,
        calls=tuple(calls),
    )
    refuse_growth(plan)
    for magnitude in (1e-2, 1e2):
        _check_linear(scheduler, plan, magnitude)
    return plan


@contextmanager
def refusals(name: str, steps: int) -> Iterator[None]:
    """What a scheduler raises in the block becomes a :class:`S2PError`."""
    try:
        yield
    except (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise S2PError(
            f"{name} refuses its configuration at {steps} steps ({reason})",
            "choose another `scheduler` or `steps`",
            "scheduler",
        ) from error


def refuse_growth(plan: SamplingPlan) -> None:
    """Raise :class:`S2PError` when a row multiplies a state beyond its float32 digits."""
    growth = max((abs(factor) for call in plan.calls for _, factor in call.states), default=0.0)
    if growth > _LARGEST_GROWTH:
        raise S2PError(
            f"{plan.scheduler} at {plan.steps} steps multiplies a state by {growth:.0f}, more than its float32 digits bear",
            "choose another `scheduler` or `steps`",
            "scheduler",
        )


def _refuse_unsupported(scheduler: Any, steps: int) -> None:
    name = type(scheduler).__name__
    config = scheduler.config
    known = scheduler_classes()
    if name not in known:
        raise S2PError(f"scheduler {name} is not supported", f"choose one of {', '.join(sorted(known))}")
    for option, off in _OFF.items():
        if config.get(option):
            raise S2PError(
                f"{name} with {option} is not a fixed linear map", f"set {option} to {str(off).lower()} in its configuration"
            )
    if config.get("variance_type") in _LEARNED_VARIANCE:
        raise S2PError(f"{name} reads its variance from the model", "set variance_type to fixed_small in its configuration")
    if config.get("prediction_type") not in PREDICTION_TYPES:
        found = config.get("prediction_type")
        raise S2PError(f"{name} has prediction_type {found!r}", f"supported are {', '.join(PREDICTION_TYPES)}")
    limit = config.num_train_timesteps
    if not 1 <= steps <= limit:
        raise S2PError(f"{name} cannot sample in {steps} steps", f"choose `steps` from 1 to {limit}", "steps")


def probe_calls(scheduler: Any, told: Sequence[float], begin: int = 0) -> Iterator[PlanCall]:
    """The rows of a scheduler one after the other.

    Args:
        scheduler: in double precision, fresh, with its timesteps set.
        told: what the U-Net is told at each call.
        begin: the first call that is made; the scheduler has been told, where it takes that.

    Raises:
        S2PError: a division by zero, or what a row cannot say.
    """
    basis = _Basis(len(scheduler.timesteps))
    corrected = _tap_corrector(scheduler, basis)
    solved: dict[int, Vector] = {}
    for index in range(begin, len(scheduler.timesteps)):
        timestep = scheduler.timesteps[index]
        state = _tensor(basis.unit(basis.x(index)))
        input_scale = _input_scale(_vector(scheduler.scale_model_input(state, timestep)), basis, index)
        with noise_from(_once(basis.unit(basis.z(index)), index)):
            row = _vector(scheduler.step(_tensor(basis.unit(basis.e(index))), timestep, state, return_dict=False)[0])
        if not np.isfinite(row).all():
            raise S2PError(
                f"{type(scheduler).__name__} divides by zero at call {index}",
                _against_division(scheduler.config),
            )
        row = _eliminate(row, index, basis, corrected, solved)
        yield _plan_call(row, index, basis, told[index], input_scale)


def _against_division(config: Any) -> str:
    """What keeps a scheduler from the noise level 0, of the settings that it has and that stand otherwise."""
    settings = {name: wanted for name, wanted in _AGAINST_DIVISION.items() if name in config and config[name] != wanted}
    if not settings:
        return "choose another `scheduler` or `steps`"
    return f"set {' or '.join(f'{name} to {str(wanted).lower()}' for name, wanted in settings.items())} in its configuration"


def _once(noise: Vector, index: int) -> Any:
    """Answers the first request for noise; a second one in the same call has no symbol."""
    left = [noise]

    def draw(_: torch.Size) -> torch.Tensor:
        if not left:
            raise S2PError(
                f"the scheduler draws noise twice at call {index}, which a row cannot say",
                "choose another `scheduler`",
                "scheduler",
            )
        return _tensor(left.pop())

    return draw


def _input_scale(scaled: Vector, basis: _Basis, index: int) -> float:
    scale = scaled[basis.x(index)]
    if np.count_nonzero(scaled) != 1 or not np.isfinite(scale) or scale == 0:
        raise S2PError(
            f"scale_model_input at call {index} is not a factor on the state", "choose another `scheduler`", "scheduler"
        )
    return float(scale)


def _tap_corrector(scheduler: Any, basis: _Basis) -> dict[int, Vector]:
    """Make UniPC's corrector answer the fresh symbol ``c_i``; what it would have answered goes to the returned mapping."""
    corrected: dict[int, Vector] = {}
    if hasattr(scheduler, _CORRECTOR):
        correct = getattr(scheduler, _CORRECTOR)

        def tapped(*args: Any, **kwargs: Any) -> torch.Tensor:
            index = scheduler.step_index
            corrected[index] = _vector(correct(*args, **kwargs))
            return _tensor(basis.unit(basis.c(index)))

        setattr(scheduler, _CORRECTOR, tapped)
    return corrected


def _eliminate(row: Vector, index: int, basis: _Basis, corrected: dict[int, Vector], solved: dict[int, Vector]) -> Vector:
    """Rewrite a row without ``c_i`` and ``c_{i-1}``, and solve it for ``c_i`` on behalf of the next call.

    Args:
        row: ``x_{i+1}`` over the basis, [size].
        corrected: i -> ``c_i``, which refers to ``c_{i-1}``.
        solved: i -> ``c_i`` in terms of ``x_{i+1}`` and the symbols before it; the entry of ``index`` is added.
    """
    if index not in corrected:
        return row
    own = basis.c(index)
    factor = row[own]
    rest = row.copy()
    rest[own] = 0.0
    if factor != 0.0:
        solved[index] = (basis.unit(basis.x(index + 1)) - rest) / factor
    correction = corrected[index].copy()
    before = basis.c(index - 1)
    if correction[before] != 0.0:
        weight = correction[before]
        correction[before] = 0.0
        correction += weight * solved[index - 1]
    rest += factor * correction
    return rest


def _plan_call(row: Vector, index: int, basis: _Basis, timestep: float, input_scale: float) -> PlanCall:
    kept = np.abs(row) >= _NEGLIGIBLE
    states = tuple((k, float(row[basis.x(k)])) for k in range(index + 1) if kept[basis.x(k)])
    outputs = tuple((k, float(row[basis.e(k)])) for k in range(index + 1) if kept[basis.e(k)])
    noise = basis.z(index)
    if np.count_nonzero(kept) != len(states) + len(outputs) + int(kept[noise]):
        raise S2PError(
            f"the scheduler reuses earlier noise at call {index}, which a row cannot say",
            "choose another `scheduler`",
            "scheduler",
        )
    return PlanCall(
        timestep=timestep,
        input_scale=input_scale,
        states=states,
        outputs=outputs,
        noise=float(row[noise]) if kept[noise] else 0.0,
    )


def _check_linear(scheduler: Any, plan: SamplingPlan, magnitude: float) -> None:
    """Walk the double-precision scheduler over random numbers of one magnitude and compare every step with its row."""
    name = type(scheduler).__name__
    double = double_precision(scheduler)
    double.set_timesteps(plan.steps)
    random = np.random.default_rng(0)
    states, outputs = [random.standard_normal(16) * magnitude], []
    for index, (call, timestep) in enumerate(zip(plan.calls, double.timesteps, strict=True)):
        outputs.append(random.standard_normal(16) * magnitude)
        noise = random.standard_normal(16) * magnitude
        state = _tensor(states[index])
        scaled = _vector(double.scale_model_input(state, timestep))
        with noise_from(_once(noise, index)):
            states.append(_vector(double.step(_tensor(outputs[index]), timestep, state, return_dict=False)[0]))
        terms = [a * states[k] for k, a in call.states] + [b * outputs[k] for k, b in call.outputs] + [call.noise * noise]
        largest = max(float(np.abs(term).max()) for term in terms)
        difference = float(np.abs(np.sum(terms, axis=0) - states[index + 1]).max())
        scale_difference = float(np.abs(call.input_scale * states[index] - scaled).max())
        if not (difference <= _LINEAR * largest and scale_difference <= _LINEAR * float(np.abs(scaled).max())):
            raise S2PError(
                f"{name} is not linear in this configuration (call {index})", "choose another with `scheduler`", "scheduler"
            )
