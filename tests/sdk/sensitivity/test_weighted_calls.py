"""Layers ranked on the calls whose errors count."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.methods import run_method
from s2p_mobile.quantize.recipes import Recipe
from s2p_mobile.quantize.sensitivity.samples import collect_samples, weighted_calls
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.trajectory import encode_prompt, float_unet
from s2p_runtime.errors import S2PError
from s2p_runtime.plan import SamplingPlan


@pytest.mark.parametrize("count", [4, 16, 1000])
def test_every_call_is_seen_as_often_as_its_share_says(count: int) -> None:
    shares = np.array([0.5, 0.25, 0.15, 0.1, 0.0])
    seen = Counter(call for shift in (0.125, 0.375, 0.625, 0.875) for call in weighted_calls(shares, count, shift))
    for call, share in enumerate(shares):
        # Each of the four rounds has the whole number above or below.
        assert abs(seen[call] - 4 * count * share) < 4
    assert weighted_calls(np.full(5, 0.2), 5, 0.5) == [0, 1, 2, 3, 4]


def test_samples_are_states_of_the_trajectory(tiny_model: Model, tiny_plan: SamplingPlan) -> None:
    unet = float_unet(tiny_model, tiny_plan)
    prompts = [encode_prompt(tiny_model, "a cat", 1, 4.0)]
    plain = {
        sample.call: sample.sample for sample in collect_samples(unet, tiny_plan, prompts, 4.0, tiny_model.latent_shape, 5)
    }
    shares = np.array([0.6, 0.0, 0.0, 0.2, 0.2])
    found = collect_samples(unet, tiny_plan, prompts, 4.0, tiny_model.latent_shape, 5, shares=shares)
    assert [sample.call for sample in found] == [0, 0, 0, 3, 4]
    assert all((sample.sample == plain[sample.call]).all() for sample in found)


def test_a_method_that_measures_no_influence_says_so(tiny_model: Model, tiny_plan: SamplingPlan) -> None:
    document = {
        "name": "x",
        "description": "for tests",
        "weights": {"bits": 4},
        "mixed": {"average_bits": 5, "candidates": [4, 8], "calls": "influence"},
        "calibration": {"prompts": 1},
    }
    job = QuantizationJob(tiny_model, tiny_plan, Recipe.model_validate(document), ("a cat",), 4.0, device="cpu")
    for method in ("rtn", "palettize"):
        with pytest.raises(S2PError, match="does not measure the calls' influence"):
            run_method(method, job)
