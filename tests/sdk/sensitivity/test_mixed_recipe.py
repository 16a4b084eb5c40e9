"""A recipe with a mixed rule through a whole method on the demo model."""

from __future__ import annotations

import pytest

from s2p_converters.core.plan import plan_for
from s2p_mobile.quantize.methods import QuantizationJob, run_method
from s2p_mobile.quantize.recipes import ActivationRule, CalibrationRule, MixedRule, Recipe, WeightRule
from s2p_mobile.sources.opening import open_model


@pytest.mark.parametrize(
    ("mixed", "eight"),
    # ceil(5% of 124 layers) = 7; a budget decides the number itself.
    [({"top": "5%"}, 7), ({"average_bits": 4.2, "ranking": "gradient"}, None)],
)
def test_layers_get_the_bits_of_the_rule(mixed: dict[str, object], eight: int | None) -> None:
    model = open_model(None)
    recipe = Recipe(
        name="test",
        description="",
        weights=WeightRule(bits=4, search="absmax"),
        activations=ActivationRule(bits=None),
        mixed=MixedRule.model_validate(mixed),
        calibration=CalibrationRule(prompts=1),
    )
    plan = plan_for(model.folder / "scheduler", "ddim", 2)
    layers = run_method("rtn", QuantizationJob(model, plan, recipe, ("a red apple on a blue background",), 1.0)).layers
    wide = [layer for layer in layers.values() if layer.weight_bits == 8]
    assert all(layer.weight_bits in (4, 8) for layer in layers.values())
    total = sum(layer.spec.weights for layer in layers.values())
    average = sum(layer.weight_bits * layer.spec.weights for layer in layers.values()) / total
    if eight is not None:
        assert len(wide) == eight
    else:
        # Not one more layer would fit: what is left of the budget is less than the smallest 4-bit layer needs.
        smallest = min(layer.spec.weights for layer in layers.values() if layer.weight_bits == 4)
        assert 4.2 - 4 * smallest / total < average <= 4.2
    # Every integer lies on the grid of its layer's width, and a wider layer uses the room.
    for layer in layers.values():
        reach = 2 ** (layer.weight_bits - 1)
        assert reach // 2 <= abs(layer.integers.astype(int)).max() <= reach
