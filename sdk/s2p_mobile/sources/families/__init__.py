"""Kinds of Stable Diffusion, recognised from a model's own configuration files, and what is refused by name."""

from s2p_mobile.sources.families.conditioner import Conditioner, ConditionSpec, EncodedPrompt
from s2p_mobile.sources.families.family import FAMILIES, LCM_GUIDANCE, LCM_STEPS, Family, families_in_order, recognise
from s2p_mobile.sources.families.refusals import refuse_folder, refuse_pipeline, supported_pipelines

__all__ = [
    "FAMILIES",
    "LCM_GUIDANCE",
    "LCM_STEPS",
    "ConditionSpec",
    "Conditioner",
    "EncodedPrompt",
    "Family",
    "families_in_order",
    "recognise",
    "refuse_folder",
    "refuse_pipeline",
    "supported_pipelines",
]
