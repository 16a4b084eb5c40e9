"""Kinds of Stable Diffusion, recognised from a model's own configuration files, and what is refused by name."""

from s2p_mobile.sources.families.conditioner import Conditioner, ConditionSpec, EncodedPrompt
from s2p_mobile.sources.families.family import LCM_GUIDANCE, LCM_STEPS, Configs, Family, text_to_image
from s2p_mobile.sources.families.refusals import refuse_folder, refuse_pipeline, supported_pipelines
from s2p_mobile.sources.families.registry import FAMILIES, families_in_order, recognise

__all__ = [
    "FAMILIES",
    "LCM_GUIDANCE",
    "LCM_STEPS",
    "ConditionSpec",
    "Conditioner",
    "Configs",
    "EncodedPrompt",
    "Family",
    "families_in_order",
    "recognise",
    "refuse_folder",
    "refuse_pipeline",
    "supported_pipelines",
    "text_to_image",
]
