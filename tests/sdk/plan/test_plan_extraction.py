"""Extracted plans against diffusers' own sampling loop with a non-linear toy denoiser."""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from s2p_converters.core.plan import SCHEDULERS, extract_plan, make_scheduler
from s2p_runtime.errors import S2PError
from s2p_runtime.noise import gaussian
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.walker import denoise

STABLE_DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}
InDouble = Callable[[type], types.ModuleType]
SHAPE = (1, 4, 2, 2)
SEED = 7
FLOAT32_UNIT = 2.0**-24
MIX = np.random.default_rng(3).standard_normal((16, 16)) / 4
NO_SAMPLE_PREDICTION = ("pndm", "euler-a")  # diffusers does not implement it for these two


def toy(x: np.ndarray, timestep: float) -> np.ndarray:
    """A denoiser that is not linear, in the dtype of ``x``."""
    return np.tanh(MIX.astype(x.dtype) @ x.reshape(16, 1) + x.dtype.type(timestep / 500 - 1)).reshape(SHAPE)


def noise(index: int) -> np.ndarray:
    """The draw of call ``index``, float32 as the runtime makes it."""
    return gaussian(SEED, SHAPE, stream=index + 1)


def real_loop(scheduler: Any, module: Any, plan: SamplingPlan, latents: np.ndarray, monkeypatch: Any) -> np.ndarray:
    """Diffusers' sampling loop; ``module`` is the one whose ``randn_tensor`` the scheduler calls."""
    scheduler.set_timesteps(plan.steps)
    draws: list[int] = []
    index = 0

    def known_draw(shape: Any, **_: Any) -> torch.Tensor:
        draws.append(index)
        return torch.from_numpy(noise(index).astype(latents.dtype))

    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", known_draw)
    x = torch.from_numpy(latents)
    assert len(scheduler.timesteps) == len(plan.calls)
    for index, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, timestep)
        output = torch.from_numpy(toy(scaled.numpy(), plan.timesteps[index]))
        x = scheduler.step(output, timestep, x, return_dict=False)[0]
    return x.numpy()


def walk(plan: SamplingPlan, latents: np.ndarray, relative: float = 0.0, trial: int = 0) -> np.ndarray:
    """The rows in float64; every number that enters a sum is off by the factor 1 +- ``relative``."""
    random = np.random.default_rng(trial)

    def off(value: Any) -> Any:
        return value * (1.0 + relative * random.choice([-1.0, 1.0], np.shape(value)))

    states, outputs = [latents.astype(np.float64)], []
    for index, call in enumerate(plan.calls):
        outputs.append(off(toy(off(call.input_scale * states[index]), call.timestep)))
        terms = [off(a) * off(states[k]) for k, a in call.states] + [off(b) * outputs[k] for k, b in call.outputs]
        states.append(np.sum([*terms, off(call.noise) * noise(index).astype(np.float64)], axis=0))
    return states[-1]


def sensitivity(plan: SamplingPlan, latents: np.ndarray, relative: float) -> float:
    """How far the last state moves when all numbers are off by ``relative``: the largest of five random sign patterns."""
    exact = walk(plan, latents)
    return max(float(np.abs(walk(plan, latents, relative, trial) - exact).max()) for trial in range(5))


def check(scheduler: Any, steps: int, in_double: InDouble, monkeypatch: Any) -> SamplingPlan:
    """Compare the plan with diffusers in float64, with diffusers as it stands, and with the runtime's float32 loop."""
    plan = extract_plan(scheduler, steps)
    kind = type(scheduler)
    fresh = kind.from_config(scheduler.config)
    fresh.set_timesteps(steps)
    assert plan.timesteps == [float(t) for t in fresh.timesteps]
    assert plan.initial_scale == pytest.approx(float(fresh.init_noise_sigma), rel=1000 * FLOAT32_UNIT)

    latents = np.float32(plan.initial_scale) * gaussian(SEED, SHAPE)
    module = in_double(kind)
    expected = real_loop(
        getattr(module, kind.__name__).from_config(scheduler.config), module, plan, latents.astype(np.float64), monkeypatch
    )
    size = np.abs(expected).max()
    # Both are float64 sums of the same terms in another order; 1e-10 leaves 2e5 roundings of amplification.
    assert np.abs(walk(plan, latents) - expected).max() <= 1e-10 * size

    # Untouched diffusers: its alphas are a float32 product of up to 1000 factors, each rounded once: at worst 1000 units off.
    # 4: a pattern of signs may be luckier than the worst one; one unit of the result for the last rounding.
    single = real_loop(fresh, importlib.import_module(kind.__module__), plan, latents, monkeypatch)
    tolerance = 4 * sensitivity(plan, latents, 1000 * FLOAT32_UNIT) + FLOAT32_UNIT * size
    assert np.abs(single - expected).max() <= tolerance
    # The runtime rounds the scale, the scaled state, the toy's product, sum and tanh and the new state: 8 units a call.
    runtime = denoise(plan, lambda x, index: toy(x, plan.timesteps[index]), latents, SEED)
    assert runtime.dtype == np.float32
    tolerance = 4 * sensitivity(plan, latents, 8 * FLOAT32_UNIT) + FLOAT32_UNIT * size
    assert np.abs(runtime - expected).max() <= tolerance
    return plan


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", SCHEDULERS.names)
def test_named_scheduler_draws_what_diffusers_draws(
    name: str, prediction: Any, spacing: Any, steps: int, in_double: InDouble, monkeypatch: Any
) -> None:
    scheduler = make_scheduler(name, {**STABLE_DIFFUSION, "prediction_type": prediction}, spacing=spacing)
    if prediction == "sample" and name in NO_SAMPLE_PREDICTION:
        with pytest.raises(S2PError, match="prediction_type"):
            extract_plan(scheduler, steps)
        return
    plan = check(scheduler, steps, in_double, monkeypatch)
    # The last of their steps ends at the picture itself; DDPM adds noise at every timestep but 0.
    noisy = plan.timesteps[0] > 0 if name == "ddpm" else name in ("euler-a", "lcm") and steps > 1
    assert (max(call.noise for call in plan.calls) > 0) == noisy


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("DDIMScheduler", {"set_alpha_to_one": True, "beta_schedule": "squaredcos_cap_v2"}),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
        ("DDIMScheduler", {"trained_betas": [0.001 + 0.0001 * i for i in range(200)], "num_train_timesteps": 200}),
        ("DDPMScheduler", {"variance_type": "fixed_small"}),
        ("DDPMScheduler", {"variance_type": "fixed_large"}),
        ("DEISMultistepScheduler", {"solver_order": 3}),
        ("DPMSolverMultistepScheduler", {"euler_at_final": True, "lower_order_final": False}),
        ("DPMSolverMultistepScheduler", {"lower_order_final": False, "final_sigmas_type": "sigma_min"}),
        ("DPMSolverMultistepScheduler", {"solver_order": 3, "use_exponential_sigmas": True}),
        ("DPMSolverMultistepScheduler", {"solver_type": "heun", "use_lu_lambdas": True}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
        ("EulerDiscreteScheduler", {"interpolation_type": "log_linear", "timestep_spacing": "linspace"}),
        ("HeunDiscreteScheduler", {}),
        ("LMSDiscreteScheduler", {}),
        ("PNDMScheduler", {"skip_prk_steps": False}),
        ("UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh1", "final_sigmas_type": "sigma_min"}),
        ("UniPCMultistepScheduler", {"disable_corrector": [0, 3, 4], "use_karras_sigmas": True}),
        ("UniPCMultistepScheduler", {"predict_x0": False, "final_sigmas_type": "sigma_min"}),
    ],
)
def test_options_of_supported_classes(kind: str, options: dict[str, Any], in_double: InDouble, monkeypatch: Any) -> None:
    base = {**STABLE_DIFFUSION, "prediction_type": "epsilon", "timestep_spacing": "leading"}
    check(getattr(diffusers, kind).from_config({**base, **options}), 12, in_double, monkeypatch)


def test_ddim_rows_are_the_closed_form_in_double() -> None:
    """Song et al., "Denoising Diffusion Implicit Models", equation 12 with sigma = 0, from alphas computed here."""
    scheduler = make_scheduler("ddim", {**STABLE_DIFFUSION, "prediction_type": "epsilon"}, spacing="trailing")
    alphas = np.cumprod(1.0 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    for call in extract_plan(scheduler, 25).calls:
        t = int(call.timestep)
        now, then = alphas[t], alphas[t - 40] if t >= 40 else alphas[0]
        ((_, state),) = call.states
        ((_, output),) = call.outputs
        # Two cumulative products of 1000 float64 factors: 2000 roundings of 1.1e-16.
        assert state == pytest.approx(np.sqrt(then / now), rel=1e-12)
        assert output == pytest.approx(np.sqrt(1 - then) - np.sqrt(then / now) * np.sqrt(1 - now), rel=1e-12)


def test_pndm_makes_one_call_more_and_goes_back_to_the_first_state() -> None:
    plan = extract_plan(make_scheduler("pndm", {**STABLE_DIFFUSION, "prediction_type": "epsilon"}), 50)
    assert len(plan.calls) == 51
    assert plan.timesteps[:4] == [981.0, 961.0, 961.0, 941.0]
    assert [k for k, _ in plan.calls[1].states] == [0]
    assert [[k for k, _ in call.outputs] for call in plan.calls[:5]] == [[0], [0, 1], [0, 2], [0, 2, 3], [0, 2, 3, 4]]


def test_unipc_rows_stay_short() -> None:
    """The corrected state is eliminated: rows reach back by the solver's order, not to the first call."""
    plan = extract_plan(make_scheduler("unipc", {**STABLE_DIFFUSION, "prediction_type": "epsilon"}), 25)
    assert all(k >= index - 2 for index, call in enumerate(plan.calls) for k, _ in (*call.states, *call.outputs))


def test_extraction_leaves_scheduler_and_diffusers_alone() -> None:
    scheduler = make_scheduler("euler-a", STABLE_DIFFUSION)
    scheduler.set_timesteps(5)
    before = scheduler.sigmas.clone()
    extract_plan(scheduler, 9)
    assert torch.equal(scheduler.sigmas, before) and scheduler.step_index is None
    assert diffusers.EulerAncestralDiscreteScheduler.from_config(STABLE_DIFFUSION).betas.dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("DDIMScheduler", {"clip_sample": True}, "set clip_sample to false"),
        ("DPMSolverMultistepScheduler", {"thresholding": True}, "set thresholding to false"),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, "set use_flow_sigmas to false"),
        ("DDPMScheduler", {"variance_type": "learned_range"}, "set variance_type to fixed_small"),
        ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction"}, "prediction_type 'flow_prediction'"),
        ("TCDScheduler", {}, "TCDScheduler is not supported; choose one of DDIMScheduler"),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, "rescale_betas_zero_snr to false"),
        ("UniPCMultistepScheduler", {"solver_type": "bh1"}, "final_sigmas_type to sigma_min"),
    ],
)
def test_refusals_name_the_option(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(S2PError, match=message) as caught:
        extract_plan(getattr(diffusers, kind).from_config({**STABLE_DIFFUSION, **options}), 10)
    assert "\n" not in str(caught.value) and "; " in str(caught.value)


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_impossible_step_counts(steps: int) -> None:
    with pytest.raises(S2PError, match="1 to 1000"):
        extract_plan(make_scheduler("ddim", STABLE_DIFFUSION), steps)


def test_a_scheduler_that_clips_in_secret_is_found_out(monkeypatch: Any) -> None:
    """The check by random numbers sees what no option tells: a clamp that unit vectors do not reach."""
    from s2p_converters.core.plan import double

    kind = double.double_precision(make_scheduler("ddim", STABLE_DIFFUSION)).__class__
    step = kind.step

    def clipping(self: Any, *args: Any, **kwargs: Any) -> Any:
        return (step(self, *args, **kwargs)[0].clamp(-20, 20),)

    monkeypatch.setattr(kind, "step", clipping)
    with pytest.raises(S2PError, match="not linear"):
        extract_plan(make_scheduler("ddim", STABLE_DIFFUSION), 10)


def test_a_step_that_multiplies_a_state_beyond_float32_is_refused() -> None:
    # By hand: where noise is predicted a step multiplies the state by alpha_t / alpha_s. From t = 999 to 499 of the cosine schedule
    # that is sqrt(alphas_cumprod[499] / alphas_cumprod[999]).
    settings = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}
    settings |= {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
    scheduler = diffusers.DPMSolverMultistepScheduler.from_config(settings)
    kept = scheduler.alphas_cumprod.double()
    growth = int(torch.sqrt(kept[499] / kept[999]))
    with pytest.raises(
        S2PError, match=f"DPMSolverMultistepScheduler at 2 steps multiplies a state by {growth // 100}"
    ) as caught:
        extract_plan(scheduler, 2)
    assert caught.value.field == "scheduler"
    assert extract_plan(scheduler, 50).calls


def test_advice_against_a_division_by_zero_leaves_out_what_is_set() -> None:
    scheduler = diffusers.UniPCMultistepScheduler(lower_order_final=False)
    with pytest.raises(S2PError, match="divides by zero at call 4") as caught:
        extract_plan(scheduler, 5)
    assert caught.value.remedy == "set lower_order_final to true or final_sigmas_type to sigma_min in its configuration"
