"""Prompts that are used where none are given: a model's own (``s2p_defaults.json``), or those for any model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from s2p_mobile.sources.model import Model
from s2p_mobile.sources.prompts import read_prompts, subset
from s2p_runtime.errors import S2PError

Prompts: TypeAlias = str | Path | Sequence[str]
"""The path of a prompt file, or the texts themselves."""

CALIBRATION_PROMPTS = (
    "a photograph of an astronaut riding a horse",
    "a bowl of fruit on a wooden table, oil painting",
    "a city street at night in the rain, neon lights",
    "a portrait of an old fisherman, black and white",
    "a small red boat on a calm lake, mountains behind",
    "a golden retriever puppy sleeping on a sofa",
    "an isometric drawing of a tiny house with a garden",
    "a plate of pasta with tomato sauce and basil, close-up",
    "a medieval castle on a cliff above the sea, fantasy art",
    "a yellow taxi crossing a bridge, morning fog",
    "a watercolour painting of a forest path in autumn",
    "a robot reading a book in a library, digital art",
    "a bicycle leaning against a blue wall",
    "a snowy owl flying over a field",
    "a still life with a violin and sheet music",
    "a child building a sand castle on the beach",
)
"""Calibration prompts of models that name none."""

GOLDEN_PROMPTS = CALIBRATION_PROMPTS[:2]
"""Recorded in every checkpoint of models that name none."""


def given_prompts(prompts: Prompts, count: int | None = None, seed: int | None = None) -> tuple[str, ...]:
    """Prompts of a file or as they are; ``count`` of them by the rule of :mod:`s2p_mobile.sources.prompts`.

    Raises:
        S2PError: a file that cannot be read, no prompt, or fewer than ``count``.
    """
    if isinstance(prompts, str | Path):
        return tuple(read_prompts(Path(prompts), count, seed))
    if not prompts:
        raise S2PError("there are no prompts", "give at least one text, or a prompt file", "prompts")
    return tuple(prompts) if count is None else tuple(subset(prompts, count, seed))


def calibration_prompts(
    model: Model, prompts: Prompts | None, count: int | None = None, seed: int | None = None
) -> tuple[str, ...]:
    """Prompts to quantize a model with: the given ones, else the model's own, else :data:`CALIBRATION_PROMPTS`.

    Args:
        count, seed: as :func:`given_prompts`.

    Raises:
        S2PError: as :func:`given_prompts`.
    """
    chosen = model.defaults.calibration_prompts or CALIBRATION_PROMPTS if prompts is None else prompts
    return given_prompts(chosen, count, seed)


def held_out_prompts(model: Model, prompts: Prompts | None) -> tuple[str, ...]:
    """Prompts to evaluate a model with: the given ones, else the model's own.

    Raises:
        S2PError: as :func:`given_prompts`; the model names none.
    """
    chosen = model.defaults.held_out_prompts if prompts is None else prompts
    if chosen is None:
        raise S2PError(f"the model {model.name} names no prompts to evaluate with", "give `prompts`", "prompts")
    return given_prompts(chosen)


def golden_prompts(model: Model) -> tuple[str, ...]:
    """Prompts recorded in every checkpoint of a model."""
    return model.defaults.golden_prompts or GOLDEN_PROMPTS
