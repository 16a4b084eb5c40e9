"""Random configurations from what diffusers accepts: each is drawn as diffusers draws it, or refused by the name of a feature."""

from __future__ import annotations

import pytest

from loading_configurations import draw
from loading_matrix import outcome_of

SEEDS = range(30)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_configuration_is_drawn_as_diffusers_draws_it_or_refused_by_name(seed: int) -> None:
    outcome = outcome_of(seed)
    assert outcome.kind in ("equal", "refused"), f"{outcome.detail}\n{outcome.configuration.to_json()}"
    # What is refused always has a setting that few have; the usual ones are drawn.
    if outcome.kind == "refused":
        assert "differs from diffusers" not in outcome.detail


def test_the_seeds_cover_what_people_have() -> None:
    drawn = [draw(f"{seed}/0") for seed in SEEDS]
    assert {len(each.texts) for each in drawn} == {1, 2}
    assert {text["hidden_act"] for each in drawn for text in each.texts} >= {"quick_gelu", "gelu"}
    assert {each.scheduler.get("prediction_type") for each in drawn} >= {"epsilon", "v_prediction", "sample"}
    assert {"DownBlock2D", "CrossAttnDownBlock2D"} <= {kind for each in drawn for kind in each.unet["down_block_types"]}
    assert len({each.scheduler["_class_name"] for each in drawn}) >= 8
    assert any(each.vae.get("latents_std") for each in drawn) and any(each.vae.get("shift_factor") for each in drawn)
