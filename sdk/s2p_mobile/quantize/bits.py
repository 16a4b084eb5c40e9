"""Which layer gets how many bits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from s2p_converters.core.graph import LayerSpec
from s2p_mobile.quantize.knapsack import Choices, solve
from s2p_mobile.quantize.recipes import MixedRule, Recipe
from s2p_runtime.errors import S2PError

LayerValues = Mapping[str, Mapping[int, float]]
"""layer -> width in bits -> how much that width hurts there (any unit, the same for all)"""


def top_layers(sensitivity: Mapping[str, float], share: float) -> list[str]:
    """The most sensitive layers, ``ceil(share * L)`` of them; ties go to the layer that comes first."""
    # As a decimal fraction: 0.07 * 100 is 7.000000000000001 in binary, and its ceiling 8.
    count = math.ceil(Fraction(str(share)) * len(sensitivity))
    order = sorted(sensitivity, key=lambda name: -sensitivity[name])
    return order[:count]


def quantized_specs(specs: Sequence[LayerSpec], recipe: Recipe) -> list[LayerSpec]:
    """The layers that the recipe quantizes, in the order in which they run."""
    return [spec for spec in specs if not recipe.keeps(spec.name)]


def ranking_bits(recipe: Recipe) -> tuple[int, ...]:
    """Widths at which a recipe needs to know every layer's sensitivity, ascending; none without a ``mixed`` rule."""
    if recipe.mixed is None:
        return ()
    if recipe.mixed.top is not None:
        return (recipe.weights.bits,)
    return recipe.mixed.candidates


def average_bits(specs: Sequence[LayerSpec], bits: Mapping[str, int]) -> float:
    """Bits per weight over the layers in ``bits``."""
    sizes = {spec.name: spec.weights for spec in specs if spec.name in bits}
    return sum(sizes[name] * bits[name] for name in bits) / sum(sizes.values())


def weight_bits(specs: Sequence[LayerSpec], recipe: Recipe, sensitivity: LayerValues | None) -> dict[str, int]:
    """Bits of every quantized layer.

    Args:
        specs: layers in the order in which they run; those that the recipe keeps in float are left out.
        sensitivity: of every quantized layer at every width of :func:`ranking_bits`; needed by recipes with a ``mixed`` rule.

    Raises:
        S2PError: the budget is below what the narrowest candidate needs.
        ValueError: a mixed recipe without a sensitivity.
    """
    chosen = quantized_specs(specs, recipe)
    bits = {spec.name: recipe.weights.bits for spec in chosen}
    if recipe.mixed is None:
        return bits
    if sensitivity is None:
        raise ValueError("a mixed recipe needs a sensitivity for every quantized layer")
    if recipe.mixed.top is not None:
        at_base = {name: sensitivity[name][recipe.weights.bits] for name in bits}
        return bits | dict.fromkeys(top_layers(at_base, recipe.mixed.top), recipe.mixed.bits)
    return bits_within(chosen, sensitivity, recipe.mixed.candidates, _budget(chosen, recipe.mixed))


def bits_within(specs: Sequence[LayerSpec], sensitivity: LayerValues, candidates: Sequence[int], budget: int) -> dict[str, int]:
    """Bits of each layer such that the sensitivities add up to the least possible within a budget; exact.

    Args:
        specs: the layers, all of them quantized.
        sensitivity: of every layer at every candidate width.
        candidates: widths a layer may have.
        budget: bits of all weights together.

    Raises:
        S2PError: the narrowest candidate everywhere is over the budget.
    """
    weights = sum(spec.weights for spec in specs)
    narrowest, widest = min(candidates), max(candidates)
    if narrowest * weights > budget:
        raise S2PError(
            f"a budget of {budget / weights:.2f} bits per weight ({_megabytes(budget)}) is impossible with candidates "
            f"{', '.join(map(str, candidates))}",
            f"possible are {narrowest} to {widest} bits ({_megabytes(narrowest * weights)} "
            f"to {_megabytes(widest * weights)}), or add a narrower candidate",
        )
    items = [
        Choices([spec.weights * bits for bits in candidates], [sensitivity[spec.name][bits] for bits in candidates])
        for spec in specs
    ]
    picks = solve(items, budget).picks
    return {spec.name: candidates[pick] for spec, pick in zip(specs, picks, strict=True)}


def _budget(specs: Sequence[LayerSpec], rule: MixedRule) -> int:
    if rule.size is not None:
        return rule.size * 8
    # Exact: 4.2 in binary times a weight count may fall just below the integer meant.
    return math.floor(Fraction(str(rule.average_bits)) * sum(spec.weights for spec in specs))


def _megabytes(bits: int) -> str:
    return f"{bits / 8e6:.2f} MB"
