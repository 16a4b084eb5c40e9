"""Kinds of Stable Diffusion, recognised from a model's own configuration files, and what is refused by name."""

from s2p_mobile.sources.families.family import FAMILIES, LCM_GUIDANCE, LCM_STEPS, Family, recognise
from s2p_mobile.sources.families.refusals import PIPELINES, refuse_folder, refuse_pipeline

__all__ = [
    "FAMILIES",
    "LCM_GUIDANCE",
    "LCM_STEPS",
    "PIPELINES",
    "Family",
    "recognise",
    "refuse_folder",
    "refuse_pipeline",
]
