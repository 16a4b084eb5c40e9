"""The walk of several prompts against the runtime's loop for one."""

from __future__ import annotations

import numpy as np
import pytest

from s2p_converters.core.plan.schedulers import plan_for
from s2p_mobile.demo import DEMO_MODEL
from s2p_mobile.quantize.latents.walk import Walk, guide_pairs
from s2p_runtime.plan import denoise, guide, initial_latents

SHAPE = (1, 4, 6, 5)
SEEDS = (3, 2**63 + 11, 7)


def predict(sample: np.ndarray, call: int) -> np.ndarray:
    return (np.sin(3 * sample + call) * 0.7).astype(np.float32)


@pytest.mark.parametrize("scheduler", ["ddim", "pndm", "euler", "euler-a", "dpm++2m", "unipc"])
def test_every_run_has_the_bits_that_it_has_alone(scheduler: str) -> None:
    plan = plan_for(DEMO_MODEL / "scheduler", scheduler, 7)
    walk = Walk(plan, SEEDS, SHAPE)
    while walk.call < len(plan.calls):
        walk.advance(predict(walk.scaled, walk.call))
    for k, seed in enumerate(SEEDS):
        alone = denoise(plan, predict, initial_latents(plan, seed, SHAPE), seed)
        np.testing.assert_array_equal(walk.state[k : k + 1], alone)


def test_guidance_of_pairs() -> None:
    outputs = np.random.default_rng(0).standard_normal((3, 2, 4, 6, 5)).astype(np.float32)
    guided = guide_pairs(outputs, 7.5)
    for k in range(3):
        np.testing.assert_array_equal(guided[k : k + 1], guide(outputs[k], 7.5))
    np.testing.assert_array_equal(guide_pairs(outputs[:, 1:], 1.0), outputs[:, 1])
