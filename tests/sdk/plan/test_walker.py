"""Several runs side by side against each of them alone, for every sampler."""

from __future__ import annotations

import numpy as np
import pytest

from s2p_converters.core.plan.schedulers import SCHEDULERS, plan_for
from s2p_mobile.demo import DEMO_MODEL
from s2p_runtime.noise import gaussian
from s2p_runtime.walker import Walker, denoise, guide, guide_runs, initial_latents

SHAPE = (1, 4, 6, 5)
SEEDS = (3, 2**63 + 11, 7)


def predict(sample: np.ndarray, call: int) -> np.ndarray:
    return (np.sin(3 * sample + call) * 0.7).astype(np.float32)


@pytest.mark.parametrize("scheduler", SCHEDULERS.names)
def test_every_run_has_the_bits_that_it_has_alone(scheduler: str) -> None:
    plan = plan_for(DEMO_MODEL / "scheduler", scheduler, 7)
    together = Walker.from_seeds(plan, SEEDS, SHAPE).run(predict)
    for k, seed in enumerate(SEEDS):
        alone = denoise(plan, predict, initial_latents(plan, seed, SHAPE), seed)
        np.testing.assert_array_equal(together[k : k + 1], alone)


def test_a_sampler_with_fresh_noise_is_among_them() -> None:
    noisy = [name for name in SCHEDULERS.names if any(call.noise for call in plan_for(DEMO_MODEL / "scheduler", name, 7).calls)]
    assert len(noisy) >= 2


@pytest.mark.parametrize("scheduler", ["dpm++2m", "euler-a"])
def test_a_walk_that_was_left_ends_where_it_would_have_ended(scheduler: str) -> None:
    """Left between two calls and gone on with, by hand and by itself."""
    plan = plan_for(DEMO_MODEL / "scheduler", scheduler, 7)
    whole = Walker.from_seeds(plan, SEEDS, SHAPE).run(predict)
    walker = Walker.from_seeds(plan, SEEDS, SHAPE)
    np.testing.assert_array_equal(walker.run(predict, until=3), walker.state)
    assert walker.call == 3 and not walker.finished
    walker.advance(predict(walker.scaled, walker.call))
    np.testing.assert_array_equal(walker.run(predict, until=2), walker.state)  # it never goes back
    assert walker.call == 4
    np.testing.assert_array_equal(walker.run(predict), whole)
    assert walker.finished


def test_runs_begin_at_the_noise_of_their_seeds_or_where_they_are_told_to() -> None:
    plan = plan_for(DEMO_MODEL / "scheduler", "euler", 3)
    walker = Walker.from_seeds(plan, SEEDS, SHAPE)
    for k, seed in enumerate(SEEDS):
        np.testing.assert_array_equal(walker.state[k], np.float32(plan.initial_scale) * gaussian(seed, SHAPE)[0])
    np.testing.assert_array_equal(walker.scaled, np.float32(plan.calls[0].input_scale) * walker.state)
    start = gaussian(5, (2, *SHAPE[1:]))
    np.testing.assert_array_equal(Walker(plan, start, [0, 0]).state, start)
    with pytest.raises(ValueError, match="1 seeds for 2 runs"):
        Walker(plan, start, [0])


def test_guidance_of_several_runs() -> None:
    outputs = np.random.default_rng(0).standard_normal((3, 2, 4, 6, 5)).astype(np.float32)
    guided = guide_runs(outputs, 7.5)
    for k in range(3):
        np.testing.assert_array_equal(guided[k : k + 1], guide(outputs[k], 7.5))
    np.testing.assert_array_equal(guide_runs(outputs[:, 1:], 1.0), outputs[:, 1])
