"""As much of a recipe as fits a time."""

from __future__ import annotations

import re
from dataclasses import replace

from s2p_mobile.quantize.counts import counts_of, scaled
from s2p_mobile.quantize.forecast.timing import Timing
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.planning import stages_of
from s2p_mobile.quantize.stages.parts import float_network
from s2p_mobile.quantize.words import time_words
from s2p_mobile.sources.device import choose_device
from s2p_runtime.errors import S2PError

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_HALVINGS = 12
"""Of the interval in which the share is looked for."""
_LEAST = 1e-3


def budget_seconds(text: str) -> float:
    """``45min``, ``1.5h`` -> seconds.

    Raises:
        S2PError: no time.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d)\s*", text)
    if match is None or float(match[1]) == 0:
        raise S2PError(f"{text!r} is no time", "give `budget` as 45min or 1.5h", "budget")
    return float(match[1]) * _UNITS[match[2]]


def within_budget(job: QuantizationJob, method: str, seconds: float) -> tuple[QuantizationJob, str]:
    """The job with counts whose work takes at most so long on its device, and what that means in words.

    Raises:
        S2PError: the smallest counts take longer.
    """
    fp = float_network(job.structure, job.model.conditioner.tokens)
    timing = Timing(stages_of(job, method), job.counted, fp, choose_device(job.device), job.compute.recompute)

    def takes(share: float) -> float:
        smaller = replace(job, recipe=scaled(job.recipe, share))
        return timing.seconds_of(stages_of(smaller, method))

    whole = timing.seconds
    if whole <= seconds:
        return job, f"budget: the whole recipe, about {time_words(whole)}"
    if takes(_LEAST) > seconds:
        raise S2PError(
            f"the smallest counts of {job.recipe.name} take about {time_words(takes(_LEAST))} on this device",
            "give more `budget`, or a quicker recipe or method",
            "budget",
        )
    low, high = _LEAST, 1.0
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if takes(middle) <= seconds else (low, middle)
    chosen = scaled(job.recipe, low)
    before, after = counts_of(job.recipe), counts_of(chosen)
    listing = ", ".join(f"{after[name]} of {count} {name}" for name, count in before.items() if after[name] != count)
    words = f"budget: {listing}; about {time_words(takes(low))}, the whole recipe takes {time_words(whole)}"
    return replace(job, recipe=chosen), words
