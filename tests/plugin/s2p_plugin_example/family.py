"""A model family: Stable Diffusion 1 with another activation in its text encoder."""

from __future__ import annotations

from s2p_mobile.sources.families import Configs, Family
from s2p_mobile.sources.families.text import TextConditioner


def matches(configs: Configs) -> bool:
    """Whether the text encoder computes with ReLU."""
    return configs.get("text_encoder", {}).get("hidden_act") == "relu"


TOY = Family(
    name="toy",
    title="Stable Diffusion whose text encoder computes with ReLU",
    needs="a diffusers folder (unet, text_encoder, vae, tokenizer, scheduler; weights as .safetensors)",
    pipelines=("ToyDiffusionPipeline",),
    folders=("text_encoder", "vae", "tokenizer", "scheduler"),
    conditioner=TextConditioner,
    guidance=3.0,
    scaling_factor=0.18215,
    matches=matches,
    steps=4,
    recipe="toy",
)
