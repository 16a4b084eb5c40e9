"""Quantization recipes: pydantic models read from YAML, built in, of a plug-in, or a user's own file."""

from s2p_mobile.quantize.recipes.loading import RECIPES, load_recipe
from s2p_mobile.quantize.recipes.recipe import ActivationRule, CalibrationRule, MixedRule, Recipe, WeightRule

__all__ = ["RECIPES", "ActivationRule", "CalibrationRule", "MixedRule", "Recipe", "WeightRule", "load_recipe"]
