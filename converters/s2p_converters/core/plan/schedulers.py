"""Schedulers by the names of the command line, built on the noise schedule of a model's own scheduler_config.json."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from s2p_converters.core.plan.probe import SUPPORTED, extract_plan
from s2p_runtime.errors import S2PError
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.quiet import quiet_import

with quiet_import():
    import diffusers

CONFIG_NAME = "scheduler_config.json"
Spacing = Literal["leading", "trailing", "linspace"]


@dataclass(frozen=True)
class _Named:
    """A diffusers class and the options that make it the named sampler."""

    kind: str
    options: dict[str, Any] = field(default_factory=dict)


_DPM_SOLVER_2M = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}

_REGISTRY = {
    "ddim": _Named("DDIMScheduler"),
    "pndm": _Named("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": _Named("EulerDiscreteScheduler"),
    "euler-a": _Named("EulerAncestralDiscreteScheduler"),
    "dpm++2m": _Named("DPMSolverMultistepScheduler", {**_DPM_SOLVER_2M, "use_karras_sigmas": False}),
    "dpm++2m-karras": _Named("DPMSolverMultistepScheduler", {**_DPM_SOLVER_2M, "use_karras_sigmas": True}),
    "unipc": _Named("UniPCMultistepScheduler"),
    "lcm": _Named("LCMScheduler"),
}

SCHEDULER_NAMES = tuple(_REGISTRY)

_NON_LINEAR_DEFAULTS = ("clip_sample", "thresholding")


def make_scheduler(
    name: str, base_config: dict[str, Any], *, spacing: Spacing | None = None, karras: bool | None = None
) -> Any:
    """A diffusers scheduler by its command-line name.

    Args:
        name: one of :data:`SCHEDULER_NAMES`.
        base_config: a model's scheduler configuration; betas, prediction type, offset and spacing are taken from it.
            ``clip_sample`` and ``thresholding`` are kept when it has them, and off (whatever the class's default) when not.
        spacing: instead of the configuration's ``timestep_spacing``.
        karras: instead of the name's or the configuration's ``use_karras_sigmas``.

    Raises:
        S2PError: unknown name, ``karras`` for a sampler without such sigmas, or a configuration that diffusers refuses.
    """
    if name not in _REGISTRY:
        raise S2PError(f"scheduler {name!r} is unknown", f"choose one of {', '.join(SCHEDULER_NAMES)}")
    entry = _REGISTRY[name]
    accepted = inspect.signature(getattr(diffusers, entry.kind).__init__).parameters
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
    return _build(entry.kind, {**base_config, **overrides})


def plan_for(scheduler_folder: Path, name: str | None, steps: int) -> SamplingPlan:
    """The sampling plan of a model folder's ``scheduler/``.

    Args:
        scheduler_folder: folder with ``scheduler_config.json``.
        name: one of :data:`SCHEDULER_NAMES`, or None for the model's own scheduler as configured.
        steps: inference steps as a user counts them.

    Raises:
        S2PError: configuration missing, malformed or of an unsupported class; and as :func:`make_scheduler`, ``extract_plan``.
    """
    config = _read_config(scheduler_folder / CONFIG_NAME)
    if name is not None:
        return extract_plan(make_scheduler(name, config), steps)
    kind = config.get("_class_name")
    if kind not in SUPPORTED:
        names = ", ".join(SCHEDULER_NAMES)
        raise S2PError(f"the model's scheduler {kind} is not supported", f"choose `scheduler` from {names}", "scheduler")
    return extract_plan(_build(kind, config), steps)


def _build(kind: str, config: dict[str, Any]) -> Any:
    try:
        return getattr(diffusers, kind).from_config(config)
    except (ArithmeticError, ImportError, KeyError, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise S2PError(f"{kind} refuses the model's scheduler configuration ({reason})", f"correct {CONFIG_NAME}") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise S2PError(f"{path} does not exist", "give a model folder in diffusers layout") from None
    except (OSError, ValueError, RecursionError) as error:
        raise S2PError(f"{path} is not readable JSON ({error})", "get the model again") from error
    if not isinstance(config, dict):
        raise S2PError(f"{path} is not a scheduler configuration (a JSON object)", "get the model again")
    return config
