"""Models trained for few steps, known by what their own files say: how they are meant to be run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s2p_converters.core.plan import OwnScheduler
from s2p_mobile.sources.families.family import LCM_STEPS

_KINDS = {"turbo": 1, "lightning": 4, "hyper": 8}
"""Steps of those that do not name their own: what the authors of SDXL Turbo, SDXL-Lightning and Hyper-SD draw with."""
_KIND = re.compile(rf"(?<![a-z])({'|'.join(_KINDS)})(?![a-z])")
_NAMED = re.compile(rf"(?<![a-z])({'|'.join((*_KINDS, 'lcm'))})(?![a-z])")
_STEPS = re.compile(r"(?<![0-9])([0-9]{1,2})[-_ ]?steps?(?![a-z])")


@dataclass(frozen=True)
class FewSteps:
    """How a model of few steps is meant to be run.

    Attributes:
        title: what it is and where it says so, for people.
        steps: denoising steps.
        guidance: classifier-free guidance; at or below 1 there is none.
    """

    title: str
    steps: int
    guidance: float


def named_kind(text: str) -> str | None:
    """``turbo``, ``lightning``, ``hyper`` or ``lcm`` where a text names one of these kinds of models."""
    found = _NAMED.search(text.lower())
    return found[1] if found else None


def few_steps(scheduler: OwnScheduler, index: Mapping[str, Any], unet_config: Mapping[str, Any], name: str) -> FewSteps | None:
    """What a model's files say about few steps.

    A latent consistency model is known by its U-Net or its LCMScheduler (4 steps, as its pipeline in diffusers has them). Turbo,
    Lightning and Hyper need ``timestep_spacing = trailing`` in their scheduler's configuration, as their authors ship it, and a name:
    that of the model (its folder, file or LoRA) or the one under which it was saved (``_name_or_path``). SDXL Turbo's own scheduler,
    Euler ancestral with trailing steps, needs none. Models for zero terminal SNR or v have trailing steps too, and are not of these.

    Args:
        index: content of ``model_index.json``.
        name: of the model.
    """
    settings = scheduler.settings
    if unet_config.get("time_cond_proj_dim") is not None:
        return FewSteps("a latent consistency model (its U-Net is told the guidance)", LCM_STEPS, 1.0)
    if scheduler.name == "LCMScheduler":
        return FewSteps("a latent consistency model (its scheduler is LCMScheduler)", LCM_STEPS, 1.0)
    ordinary = settings.get("prediction_type", "epsilon") == "epsilon" and not settings.get("rescale_betas_zero_snr")
    if settings.get("timestep_spacing") != "trailing" or not ordinary:
        return None
    for text in (name, index.get("_name_or_path"), unet_config.get("_name_or_path")):
        if found := _KIND.search(str(text).lower()):
            told = _STEPS.search(str(text).lower())
            steps = int(told[1]) if told and int(told[1]) > 0 else _KINDS[found[1]]
            return FewSteps(f"a {found[1].capitalize()} model (named {text}, trailing steps)", steps, 0.0)
    if scheduler.name == "EulerAncestralDiscreteScheduler":
        return FewSteps("a Turbo model (Euler ancestral with trailing steps)", _KINDS["turbo"], 0.0)
    return None
