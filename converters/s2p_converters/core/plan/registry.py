"""Samplers by name: diffusers classes, and the options that make them the named sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from s2p_runtime.quiet import quiet_import
from s2p_runtime.registry import Registry

with quiet_import():
    import diffusers


@dataclass(frozen=True)
class Scheduler:
    """A sampler whose steps are linear, so that it can become a plan.

    Attributes:
        kind: name of a diffusers class, or a class of the same interface.
        options: of its configuration; they replace a model's own.
    """

    kind: str | type
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def class_name(self) -> str:
        """As models' configurations write it."""
        return self.kind if isinstance(self.kind, str) else self.kind.__name__

    @property
    def scheduler_class(self) -> Any:
        """The class itself."""
        return getattr(diffusers, self.kind) if isinstance(self.kind, str) else self.kind


_DPM_SOLVER_2M = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}

DDIM = Scheduler("DDIMScheduler")
PNDM = Scheduler("PNDMScheduler", {"skip_prk_steps": True})
EULER = Scheduler("EulerDiscreteScheduler")
EULER_A = Scheduler("EulerAncestralDiscreteScheduler")
DPM_2M = Scheduler("DPMSolverMultistepScheduler", {**_DPM_SOLVER_2M, "use_karras_sigmas": False})
DPM_2M_KARRAS = Scheduler("DPMSolverMultistepScheduler", {**_DPM_SOLVER_2M, "use_karras_sigmas": True})
UNIPC = Scheduler("UniPCMultistepScheduler")
LCM = Scheduler("LCMScheduler")
DDPM = Scheduler("DDPMScheduler")
DEIS = Scheduler("DEISMultistepScheduler")
HEUN = Scheduler("HeunDiscreteScheduler")
LMS = Scheduler("LMSDiscreteScheduler")

SCHEDULERS: Registry[Scheduler] = Registry(
    "scheduler",
    "s2p_mobile.schedulers",
    {
        name: f"{__name__}:{attribute}"
        for name, attribute in {
            "ddim": "DDIM",
            "pndm": "PNDM",
            "euler": "EULER",
            "euler-a": "EULER_A",
            "dpm++2m": "DPM_2M",
            "dpm++2m-karras": "DPM_2M_KARRAS",
            "unipc": "UNIPC",
            "lcm": "LCM",
            "ddpm": "DDPM",
            "deis": "DEIS",
            "heun": "HEUN",
            "lms": "LMS",
        }.items()
    },
)
"""Those of this package are tested against diffusers' own loop."""


def scheduler_classes() -> dict[str, Any]:
    """Class name -> class of every sampler that can be imported."""
    return {entry.class_name: entry.scheduler_class for entry in SCHEDULERS.entries.values()}
