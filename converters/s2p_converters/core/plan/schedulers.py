"""Schedulers by name, built on the noise schedule of a model's own scheduler_config.json."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from s2p_converters.core.plan.own import build, own_scheduler
from s2p_converters.core.plan.probe import extract_plan
from s2p_converters.core.plan.registry import SCHEDULERS, scheduler_classes
from s2p_runtime.errors import S2PError
from s2p_runtime.plan import SamplingPlan

Spacing = Literal["leading", "trailing", "linspace"]


_NON_LINEAR_DEFAULTS = ("clip_sample", "thresholding")


def make_scheduler(
    name: str, base_config: Mapping[str, Any], *, spacing: Spacing | None = None, karras: bool | None = None
) -> Any:
    """A diffusers scheduler by name.

    Args:
        name: of :data:`~s2p_converters.core.plan.registry.SCHEDULERS`.
        base_config: a model's scheduler configuration; betas, prediction type, offset and spacing are taken from it.
            ``clip_sample`` and ``thresholding`` are kept when it has them, and off (whatever the class's default) when not.
        spacing: instead of the configuration's ``timestep_spacing``.
        karras: instead of the name's or the configuration's ``use_karras_sigmas``.

    Raises:
        S2PError: unknown name, ``karras`` for a sampler without such sigmas, or a configuration that diffusers refuses.
    """
    entry = SCHEDULERS.get(name)
    accepted = inspect.signature(entry.scheduler_class.__init__).parameters
    overrides: dict[str, Any] = {
        option: False for option in _NON_LINEAR_DEFAULTS if option in accepted and option not in base_config
    }
    overrides.update(entry.options)
    if spacing is not None:
        overrides["timestep_spacing"] = spacing
    if karras is not None:
        if "use_karras_sigmas" not in accepted:
            raise S2PError(f"scheduler {name!r} has no Karras sigmas", "choose euler, dpm++2m or unipc")
        overrides["use_karras_sigmas"] = karras
    return build(entry.scheduler_class, {**base_config, **overrides})


def plan_for(scheduler_folder: Path, name: str | None, steps: int) -> SamplingPlan:
    """The sampling plan of a model folder's ``scheduler/``.

    Args:
        scheduler_folder: folder with ``scheduler_config.json``; see :func:`~s2p_converters.core.plan.own.own_scheduler`.
        name: of :data:`~s2p_converters.core.plan.registry.SCHEDULERS`, or None for the model's own scheduler as configured.
        steps: inference steps as a user counts them.

    Raises:
        S2PError: configuration missing, malformed or of an unsupported class; a scheduler with EDM's preconditioning, whatever is
            named; and as :func:`make_scheduler`, ``extract_plan``.
    """
    own = own_scheduler(scheduler_folder)
    if name is not None:
        return extract_plan(make_scheduler(name, own.settings), steps)
    if own.name not in scheduler_classes():
        names = ", ".join(SCHEDULERS.names)
        raise S2PError(f"the model's scheduler {own.name} is not supported", f"choose `scheduler` from {names}", "scheduler")
    return extract_plan(own.build(), steps)
