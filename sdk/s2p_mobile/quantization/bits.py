"""Which layer gets how many bits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from s2p_converters.unet import LayerSpec
from s2p_mobile.recipes import Recipe


def quantized_specs(specs: Sequence[LayerSpec], recipe: Recipe) -> list[LayerSpec]:
    """The layers that the recipe quantizes, in the order in which they run."""
    return [spec for spec in specs if not recipe.keeps(spec.name)]


def top_layers(sensitivity: Mapping[str, float], share: float) -> list[str]:
    """The most sensitive layers, ``ceil(share * L)`` of them; ties go to the layer that runs first."""
    count = math.ceil(share * len(sensitivity))
    order = sorted(sensitivity, key=lambda name: -sensitivity[name])
    return order[:count]


def weight_bits(specs: Sequence[LayerSpec], recipe: Recipe, sensitivity: Mapping[str, float] | None) -> dict[str, int]:
    """Bits of every quantized layer. ``sensitivity`` is needed by recipes with a ``mixed`` rule."""
    bits = {spec.name: recipe.weights.bits for spec in quantized_specs(specs, recipe)}
    if recipe.mixed is not None:
        if sensitivity is None:
            raise ValueError("a mixed recipe needs a sensitivity for every quantized layer")
        for name in top_layers({name: sensitivity[name] for name in bits}, recipe.mixed.top):
            bits[name] = recipe.mixed.bits
    return bits
