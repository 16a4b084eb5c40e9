"""The plan's validator and the loop, against a literal evaluation in rational numbers."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from s2p_runtime.noise import gaussian
from s2p_runtime.plan import PlanCall, SamplingPlan
from s2p_runtime.walker import denoise, guide, initial_latents


def plan(*rows: dict[str, Any], initial_scale: float = 1.0) -> SamplingPlan:
    calls = tuple(PlanCall(**{"timestep": 0.0, "input_scale": 1.0, "noise": 0.0, **row}) for row in rows)
    return SamplingPlan(scheduler="test", steps=len(rows), prediction_type="epsilon", initial_scale=initial_scale, calls=calls)


MULTISTEP = plan(
    {"input_scale": 0.3, "states": ((0, 1.25),), "outputs": ((0, -0.1),)},
    {"input_scale": 0.7, "states": ((0, 0.5), (1, 0.625)), "outputs": ((0, 1 / 3), (1, -0.2)), "noise": 0.75},
    {"input_scale": 1.1, "states": ((2, 1.5), (0, -0.125)), "outputs": ((2, 0.1),)},
    {"input_scale": 1.0, "states": (), "outputs": ((3, 1.0), (1, 1e-3)), "noise": -0.5},
)


def test_rows_by_exact_arithmetic() -> None:
    """Every state is the float32 nearest to the exact sum, up to the double roundings of its few terms."""
    latents = gaussian(4, (1, 2, 3, 3))
    seen: list[tuple[int, np.ndarray, np.ndarray]] = []

    def predict(x: np.ndarray, index: int) -> np.ndarray:
        assert x.dtype == np.float32
        return np.sin(3 * x + np.float32(index)).astype(np.float32)

    def watched(x: np.ndarray, index: int) -> np.ndarray:
        output = predict(x, index)
        seen.append((index, x.copy(), output.copy()))
        return output

    result = denoise(MULTISTEP, watched, latents, 99)
    assert [i for i, _, _ in seen] == [0, 1, 2, 3]
    states = [latents]
    for index, call in enumerate(MULTISTEP.calls):
        np.testing.assert_array_equal(seen[index][1], np.float32(call.input_scale) * states[index])
        np.testing.assert_array_equal(seen[index][2], predict(seen[index][1], index))
        z = gaussian(99, latents.shape, stream=index + 1)
        following = np.empty_like(latents)
        for position in np.ndindex(latents.shape):
            total = sum((Fraction(a) * Fraction(float(states[k][position])) for k, a in call.states), Fraction(0))
            total += sum((Fraction(b) * Fraction(float(seen[k][2][position])) for k, b in call.outputs), Fraction(0))
            total += Fraction(call.noise) * Fraction(float(z[position]))
            following[position] = np.float32(float(total))
        states.append(following)
        if index + 1 < len(seen):
            # A double sum of five terms can tip the rounding to float32 only within 5 * 2**-53 of a tie; not here.
            np.testing.assert_array_equal(seen[index + 1][1], np.float32(MULTISTEP.calls[index + 1].input_scale) * following)
    np.testing.assert_array_equal(result, states[-1])
    assert result.dtype == np.float32


def test_one_rounding_to_float32_not_one_a_term() -> None:
    """1 + 2**-24 + 2**-24 is 1 + 2**-23 in double, but 1 when each sum is rounded to float32."""
    rows = plan({"states": ((0, 1.0), (0, 2.0**-24), (0, 2.0**-24)), "outputs": ()})
    one = np.ones((1, 1, 1, 1), np.float32)
    assert denoise(rows, lambda x, _: x, one, 0).item() == 1 + 2.0**-23


def test_latents_are_not_changed() -> None:
    latents = gaussian(0, (1, 1, 2, 2))
    before = latents.copy()
    denoise(MULTISTEP, lambda x, _: x * 0, latents, 0)
    np.testing.assert_array_equal(latents, before)


def test_seed_matters_only_with_noise() -> None:
    still = plan({"states": ((0, 0.5),), "outputs": ((0, 0.5),)})
    latents = gaussian(0, (1, 1, 2, 2))
    for rows, same in ((still, True), (MULTISTEP, False)):
        first, second = (denoise(rows, lambda x, _: x, latents, seed) for seed in (1, 2))
        assert np.array_equal(first, second) == same


def test_guidance() -> None:
    u, c = gaussian(1, (1, 4, 2, 2)), gaussian(2, (1, 4, 2, 2))
    expected = np.float32(7.5) * (c - u) + u
    found = guide(np.concatenate([u, c]), 7.5)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32 and found.shape == u.shape
    np.testing.assert_array_equal(guide(c, 7.5), c)


def test_initial_latents() -> None:
    rows = plan({"states": ((0, 1.0),), "outputs": ()}, initial_scale=14.6146)
    expected = np.float32(14.6146) * gaussian(3, (1, 4, 2, 2), stream=0)
    np.testing.assert_array_equal(initial_latents(rows, 3, (1, 4, 2, 2)), expected)


def test_timesteps() -> None:
    rows = plan(*({"timestep": t, "states": ((0, 1.0),), "outputs": ()} for t in (999.0, 499.5)))
    assert rows.timesteps == [999.0, 499.5]


GOOD = json.loads(MULTISTEP.model_dump_json())


def changed(*path: Any, value: Any) -> str:
    document = json.loads(json.dumps(GOOD))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(document)


def test_json_round_trip() -> None:
    assert SamplingPlan.model_validate_json(json.dumps(GOOD), strict=True) == MULTISTEP


@pytest.mark.parametrize(
    "document",
    [
        changed("calls", 1, "states", value=[[2, 1.0]]),
        changed("calls", 0, "outputs", value=[[1, 1.0]]),
        changed("calls", 2, "outputs", value=[[-1, 1.0]]),
        changed("calls", 0, "states", value=[[0, math.nan]]),
        changed("calls", 0, "states", value=[[0, math.inf]]),
        changed("calls", 0, "states", value=[[0]]),
        changed("calls", 0, "states", value=[[0, 1.0, 2.0]]),
        changed("calls", 0, "states", value=[[0.5, 1.0]]),
        changed("calls", 0, "noise", value=math.inf),
        changed("calls", 0, "input_scale", value=math.nan),
        changed("calls", 0, "timestep", value=None),
        changed("calls", 0, "sigma", value=1.0),
        changed("calls", value=[]),
        changed("steps", value=0),
        changed("initial_scale", value=0),
        changed("initial_scale", value=-1.0),
        changed("eta", value=0.0),
    ],
)
def test_bad_plans_are_refused(document: str) -> None:
    with pytest.raises(ValidationError):
        SamplingPlan.model_validate_json(document, strict=True)
