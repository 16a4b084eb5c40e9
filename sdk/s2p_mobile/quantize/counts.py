"""How much of everything a recipe asks for, and recipes with less of it."""

from __future__ import annotations

from collections.abc import Mapping

from s2p_mobile.quantize.recipes import Recipe

_SMALLEST_ROUNDING = 50
"""Optimizer steps below which learned rounding is no better than rounding to nearest."""

Counts = dict[str, int]


def counts_of(recipe: Recipe) -> Counts:
    """By name."""
    training, start = recipe.training, recipe.training.start
    found = {
        "calibration prompts": recipe.calibration.prompts,
        "trajectories": training.prompts,
        "influence prompts": training.loss.prompts,
        "training steps": training.iterations,
    }
    if start.rounding == "adaround":
        found |= {"rounding samples": start.samples, "rounding steps": start.iterations}
    elif start.rounding == "gptq":
        found |= {"compensation calls": start.calls}
    return found


def with_counts(recipe: Recipe, counts: Mapping[str, int]) -> Recipe:
    """A recipe with other counts."""
    training, start = recipe.training, recipe.training.start
    start = start.model_copy(
        update={
            "samples": counts.get("rounding samples", start.samples),
            "iterations": counts.get("rounding steps", start.iterations),
            "calls": counts.get("compensation calls", start.calls),
        }
    )
    loss = training.loss.model_copy(update={"prompts": counts["influence prompts"]})
    training = training.model_copy(
        update={"prompts": counts["trajectories"], "iterations": counts["training steps"], "start": start, "loss": loss}
    )
    calibration = recipe.calibration.model_copy(update={"prompts": counts["calibration prompts"]})
    return recipe.model_copy(update={"training": training, "calibration": calibration})


def scaled(recipe: Recipe, share: float) -> Recipe:
    """A recipe with a share of each count, as far as a count makes sense when it is so small.

    Args:
        share: in (0, 1].
    """
    least = {"trajectories": recipe.training.batch, "rounding samples": 16, "rounding steps": _SMALLEST_ROUNDING}
    whole = counts_of(recipe)
    return with_counts(
        recipe, {name: min(count, max(least.get(name, 1), round(count * share))) for name, count in whole.items()}
    )
