"""From a recipe's mixed rule and sensitivities to bits of every layer."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from pydantic import ValidationError

from s2p_converters.core.graph import LayerSpec
from s2p_mobile.quantize.bits import average_bits, ranking_bits, top_layers, weight_bits
from s2p_mobile.quantize.jobs import make_job
from s2p_mobile.quantize.recipes import MixedRule, Recipe, WeightRule, load_recipe
from s2p_runtime.errors import S2PError

SPECS = [LayerSpec("conv_in", "linear", 10, 10), *(LayerSpec(f"l{k}", "linear", 10, 10 * (k + 1)) for k in range(5))]
TOTAL = 100 * (1 + 2 + 3 + 4 + 5)
VALUES = {
    "l0": {2: 9.0, 4: 1.0, 8: 0.1},
    "l1": {2: 5.0, 4: 4.0, 8: 0.1},
    "l2": {2: 7.0, 4: 2.0, 8: 0.1},
    "l3": {2: 8.0, 4: 4.0, 8: 0.1},
    "l4": {2: 3.0, 4: 0.5, 8: 0.1},
}


def recipe(**mixed: object) -> Recipe:
    return Recipe(name="test", description="", weights=WeightRule(bits=4), mixed=MixedRule.model_validate(mixed))


@pytest.mark.parametrize(
    ("share", "layers", "count"),
    [(0.05, 118, 6), (0.05, 120, 6), (0.05, 121, 7), (0.07, 100, 7), (0.29, 100, 29), (0.001, 5, 1), (1.0, 3, 3)],
)
def test_share_is_rounded_up_in_decimal(share: float, layers: int, count: int) -> None:
    values = {f"l{k}": float(k) for k in range(layers)}
    assert top_layers(values, share) == [f"l{k}" for k in range(layers - 1, layers - 1 - count, -1)]


def test_top_share_gets_more_bits_and_ties_go_to_the_first() -> None:
    # l1 and l3 have the same value at the base width; 30% of five layers is two, 20% is one.
    assert weight_bits(SPECS, recipe(top="30%"), VALUES) == {"l0": 4, "l1": 8, "l2": 4, "l3": 8, "l4": 4}
    assert weight_bits(SPECS, recipe(top=0.2, bits=6), VALUES) == {"l0": 4, "l1": 6, "l2": 4, "l3": 4, "l4": 4}


@pytest.mark.parametrize("candidates", [(4, 8), (2, 4, 8)])
@pytest.mark.parametrize(
    "rule", [{"average_bits": 4.2}, {"average_bits": 5.7}, {"size": "1.1kB"}, {"size": 900}, {"average_bits": 8}]
)
def test_budget_gives_the_best_of_all_plans(rule: dict[str, object], candidates: tuple[int, ...]) -> None:
    limit = rule["average_bits"] * TOTAL if "average_bits" in rule else (1100 if rule["size"] == "1.1kB" else 900) * 8
    plans = [dict(zip(VALUES, plan, strict=True)) for plan in itertools.product(candidates, repeat=5)]
    sizes = {spec.name: spec.weights for spec in SPECS}
    fitting = [plan for plan in plans if sum(sizes[name] * bits for name, bits in plan.items()) <= limit]
    best = min(sum(VALUES[name][bits] for name, bits in plan.items()) for plan in fitting)
    found = weight_bits(SPECS, recipe(**rule, candidates=candidates), VALUES)
    assert found in fitting
    assert sum(VALUES[name][bits] for name, bits in found.items()) == pytest.approx(best, rel=1e-12)
    assert average_bits(SPECS, found) * TOTAL <= limit * (1 + 1e-12)


def test_a_budget_that_is_met_exactly_is_used() -> None:
    # 2.3 * 3,000 is 6,899.999999999999 in binary, a bit short of the narrower plan's neighbour that costs exactly 6,900.
    specs = [LayerSpec("a", "linear", 10, 90), LayerSpec("b", "linear", 30, 70)]
    values = {"a": {2: 1.0, 3: 0.0}, "b": {2: 0.1, 3: 0.0}}
    assert 2.3 * 3000 < 6900
    assert weight_bits(specs, recipe(average_bits=2.3, candidates=(2, 3)), values) == {"a": 3, "b": 2}


@pytest.mark.parametrize("rule", [{"average_bits": 3.9}, {"size": "500B"}])
def test_impossible_budget_says_what_is_possible(rule: dict[str, object]) -> None:
    with pytest.raises(S2PError, match=r"impossible with candidates 4, 8; possible are 4 to 8 bits \(0\.00 MB") as caught:
        weight_bits(SPECS, recipe(**rule), VALUES)
    assert "\n" not in str(caught.value)


def test_widths_that_must_be_measured() -> None:
    assert ranking_bits(recipe(top=0.05)) == (4,)
    assert ranking_bits(recipe(average_bits=4.5, candidates=(8, 3, 4, 3))) == (3, 4, 8)
    assert ranking_bits(load_recipe("w4a8")) == ()
    assert ranking_bits(load_recipe("w4a8-top5")) == (4,)
    assert ranking_bits(load_recipe("w4a8-mixed")) == (2, 4, 6, 8)


@pytest.mark.parametrize(
    ("text", "count"), [("300MB", 300_000_000), ("1.5 GiB", 3 * 2**29), ("7", None), ("2 TB", None), ("-1MB", None), (0, None)]
)
def test_sizes(text: object, count: int | None) -> None:
    if count is None:
        with pytest.raises(ValidationError):
            MixedRule.model_validate({"size": text})
    else:
        assert MixedRule.model_validate({"size": text}).size == count


@pytest.mark.parametrize(
    ("mixed", "message"),
    [
        ("{}", "exactly one of top, average_bits and size"),
        ("{top: 5%, average_bits: 4.2}", "exactly one of top, average_bits and size"),
        ("{average_bits: 9}", "average_bits"),
        ("{average_bits: 4, candidates: [4, 9]}", "candidates"),
        ("{size: huge}", "write it like 300MB"),
    ],
)
def test_bad_rules_are_refused_in_one_line(tmp_path: Path, mixed: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"name: mine\ndescription: x\nweights: {{bits: 4}}\nmixed: {mixed}\n", encoding="utf-8")
    with pytest.raises(S2PError, match=message) as caught:
        load_recipe(str(file))
    assert "\n" not in str(caught.value)


def test_an_unknown_ranking_is_refused_before_anything_runs(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\ndescription: x\nweights: {bits: 4}\nmixed: {top: 5%, ranking: guess}\n", encoding="utf-8")
    with pytest.raises(S2PError, match="unknown estimator 'guess'; there are fisher"):
        make_job(None, recipe=str(file), device="cpu")


def test_a_recipe_survives_its_own_json() -> None:
    rule = recipe(size="1.5MiB", candidates=(8, 2), ranking="sqnr")
    assert Recipe.model_validate(rule.model_dump(mode="json")) == rule
