"""Samplers as data: a diffusers scheduler is probed once and becomes a :class:`s2p_runtime.plan.SamplingPlan`."""

from s2p_converters.core.plan.own import OwnScheduler, own_scheduler
from s2p_converters.core.plan.probe import extract_plan
from s2p_converters.core.plan.registry import SCHEDULERS, Scheduler
from s2p_converters.core.plan.schedulers import make_scheduler, plan_for
from s2p_converters.core.plan.starts import image_starts

__all__ = [
    "SCHEDULERS",
    "OwnScheduler",
    "Scheduler",
    "extract_plan",
    "image_starts",
    "make_scheduler",
    "own_scheduler",
    "plan_for",
]
