"""Quantization recipes: pydantic models read from YAML, built in or a user's own file."""

from s2p_mobile.quantize.recipes.recipe import ActivationRule, CalibrationRule, MixedRule, Recipe, WeightRule
from s2p_mobile.quantize.recipes.registry import load_recipe, recipe_names

__all__ = ["ActivationRule", "CalibrationRule", "MixedRule", "Recipe", "WeightRule", "load_recipe", "recipe_names"]
