"""Runs from a picture against diffusers' own image-to-image loop, in double precision and with a denoiser that is not linear."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline

from s2p_converters.core.plan import SCHEDULERS, image_starts, make_scheduler, own_scheduler, plan_for
from s2p_mobile.demo import DEMO_MODEL
from s2p_runtime.errors import S2PError
from s2p_runtime.noise import gaussian
from s2p_runtime.plan import ImageStart, PlanCall, SamplingPlan, check_image_starts, skipped_steps
from s2p_runtime.walker import Walker, picture_latents

SCHEDULER = DEMO_MODEL / "scheduler"
InDouble = Callable[[type], types.ModuleType]
SHAPE = (1, 4, 2, 2)
SEED = 7
STEPS = 9
PICTURE = gaussian(31, SHAPE)


def toy(x: np.ndarray, index: int) -> np.ndarray:
    return np.tanh(1.3 * x[..., ::-1] + x.dtype.type(index / 4 - 1))


def diffusers_loop(
    scheduler: Any, strength: float, in_double: InDouble, monkeypatch: pytest.MonkeyPatch
) -> tuple[np.ndarray, int]:
    """What StableDiffusionImg2ImgPipeline does between the picture's latents and the decoder, and the first call that it makes."""
    module = in_double(type(scheduler))
    double = getattr(module, type(scheduler).__name__).from_config(scheduler.config)
    double.set_timesteps(STEPS)
    total = len(double.timesteps)
    pipeline = types.SimpleNamespace(scheduler=double)
    timesteps, _ = StableDiffusionImg2ImgPipeline.get_timesteps(pipeline, STEPS, strength, "cpu")
    first = index = total - len(timesteps)
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(
            module, "randn_tensor", lambda *_, **__: torch.from_numpy(gaussian(SEED, SHAPE, index + 1)).double()
        )
    x = double.add_noise(*(torch.from_numpy(a).double() for a in (PICTURE, gaussian(SEED, SHAPE))), timesteps[:1])
    for index, timestep in enumerate(timesteps, first):
        scaled = double.scale_model_input(x, timestep)
        x = double.step(torch.from_numpy(toy(scaled.numpy(), index).copy()), timestep, x, return_dict=False)[0]
    return x.numpy(), first


def in_double_rows(plan: SamplingPlan, start: ImageStart, stored: type[np.floating] = np.float64) -> np.ndarray:
    """The rows of a run from the picture, summed in float64; ``stored`` is what states and outputs are kept in."""
    first = start.latents * PICTURE.astype(np.float64) + start.noise * gaussian(SEED, SHAPE).astype(np.float64)
    states, outputs = {start.call: first.astype(stored)}, {}
    for index, row in enumerate(plan.begun_at(start).calls[start.call :], start.call):
        outputs[index] = toy(stored(row.input_scale) * states[index], index)
        total = np.zeros(SHAPE)
        for factor, value in [*((a, states[k]) for k, a in row.states), *((b, outputs[k]) for k, b in row.outputs)]:
            total += factor * value.astype(np.float64)
        if row.noise:
            total += row.noise * gaussian(SEED, SHAPE, index + 1).astype(np.float64)
        states[index + 1] = total.astype(stored)
    return states[len(plan.calls)]


@pytest.mark.parametrize("strength", [0.12, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("name", SCHEDULERS.names)
def test_ends_where_diffusers_ends(name: str, strength: float, in_double: InDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(SCHEDULER, name, STEPS)
    starts = image_starts(plan, SCHEDULER)
    check_image_starts(plan, starts)
    start = starts[skipped_steps(STEPS, strength)]
    expected, first = diffusers_loop(make_scheduler(name, own_scheduler(SCHEDULER).settings), strength, in_double, monkeypatch)
    assert start.call == first
    size = np.abs(expected).max()
    # float64 sums of the same terms in another order; 1e-10 leaves 2e5 roundings of amplification.
    assert np.abs(in_double_rows(plan, start) - expected).max() <= 1e-10 * size

    walker = Walker(plan, picture_latents(start, PICTURE, SEED), [SEED], start)
    assert walker.call == first
    found = walker.run(lambda scaled, call: toy(scaled, call))
    # The same rows by hand, with the roundings that the format asks for: once a state, once what a call sees.
    np.testing.assert_array_equal(found, in_double_rows(plan, start, np.float32))


@pytest.mark.parametrize("name", ["pndm", "dpm++2m", "unipc", "deis", "lms"])
def test_samplers_that_look_back_need_rows_of_their_own(name: str) -> None:
    plan = plan_for(SCHEDULER, name, STEPS)
    first, second, *_ = image_starts(plan, SCHEDULER)
    assert first.rows == () and 0 < len(second.rows) < len(plan.calls)
    with pytest.raises(ValueError, match="what start 1 does not have"):
        check_image_starts(plan, tuple(start.model_copy(update={"rows": ()}) for start in image_starts(plan, SCHEDULER)))


def test_long_plans_keep_short_rows() -> None:
    plan = plan_for(SCHEDULER, "unipc", 100)
    starts = image_starts(plan, SCHEDULER)
    assert len(starts) == 100 and max(len(start.rows) for start in starts) <= 6


def test_settings_that_a_pipeline_supplies_are_found(tmp_path: Path) -> None:
    """A checkpoint has the model's own configuration and no index, so what a pipeline changed in it is not written anywhere."""
    config = json.loads((SCHEDULER / "scheduler_config.json").read_text())
    for name, offset in (("model", 1), ("checkpoint", 0)):
        (tmp_path / name).mkdir()
        told = {**config, "timestep_spacing": "leading", "steps_offset": offset}
        (tmp_path / name / "scheduler_config.json").write_text(json.dumps(told))
    plan = plan_for(tmp_path / "model", None, STEPS)
    assert plan != plan_for(tmp_path / "checkpoint", None, STEPS)
    assert image_starts(plan, tmp_path / "checkpoint") == image_starts(plan, tmp_path / "model")


def test_a_plan_of_nobody_is_refused() -> None:
    plan = plan_for(SCHEDULER, "ddim", STEPS)
    row = plan.calls[3]
    other = PlanCall(**{**row.model_dump(), "states": tuple((k, a * 1.001) for k, a in row.states)})
    changed = plan.model_copy(update={"calls": (*plan.calls[:3], other, *plan.calls[4:])})
    with pytest.raises(S2PError, match="no sampler gives the plan of DDIMScheduler with 9 steps"):
        image_starts(changed, SCHEDULER)


@pytest.mark.parametrize(
    ("steps", "strength", "skipped"), [(25, 0.8, 5), (25, 1.0, 0), (50, 0.58, 22), (10, 0.3, 7), (4, 0.25, 3), (1, 1.0, 0)]
)
def test_steps_are_counted_as_diffusers_counts_them(steps: int, strength: float, skipped: int) -> None:
    """50 * 0.58 is 28.999999999999996 in double, of which 28 are made."""
    assert skipped_steps(steps, strength) == skipped
    scheduler = make_scheduler("ddim", own_scheduler(SCHEDULER).settings)
    scheduler.set_timesteps(steps)
    pipeline = types.SimpleNamespace(scheduler=scheduler)
    timesteps, made = StableDiffusionImg2ImgPipeline.get_timesteps(pipeline, steps, strength, "cpu")
    assert len(timesteps) == made == steps - skipped


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.01, float("nan")])
def test_a_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(S2PError, match=r"strength .* is out of range; give a number above 0, at most 1"):
        skipped_steps(25, strength)


def test_a_strength_that_leaves_no_step_is_refused() -> None:
    with pytest.raises(S2PError, match=r"strength 0.03 leaves none of 25 steps; give 0.04 or more"):
        skipped_steps(25, 0.03)


def test_the_strength_that_is_advised_leaves_a_step() -> None:
    """A third as 0.333 would leave none of three again."""
    for steps in range(2, 1001):
        with pytest.raises(S2PError) as caught:
            skipped_steps(steps, 0.5 / steps)
        advised = float(str(caught.value).split("give ")[1].split(" or")[0])
        assert skipped_steps(steps, advised) < steps
