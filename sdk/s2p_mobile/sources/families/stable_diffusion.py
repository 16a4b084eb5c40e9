"""Stable Diffusion 1.x, 2.x and XL."""

from __future__ import annotations

from s2p_mobile.sources.families.family import Configs, Family
from s2p_mobile.sources.families.pooled_text import PooledTextConditioner
from s2p_mobile.sources.families.text import TextConditioner

_FOLDERS = ("text_encoder", "vae", "tokenizer", "scheduler")
_PIPELINES = (
    "StableDiffusionPipeline",
    "LatentConsistencyModelPipeline",
    "StableDiffusionImg2ImgPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
)
_NEEDS = "a diffusers folder (unet, text_encoder, vae, tokenizer, scheduler; weights as .safetensors) or one file"


def _has_clip(configs: Configs) -> bool:
    """Whether there is a U-Net and a CLIP text encoder."""
    if "unet" not in configs or "text_encoder" not in configs:
        return False
    kind = (configs["text_encoder"].get("architectures") or ["CLIPTextModel"])[0]
    return str(kind).startswith("CLIPTextModel")


def _has_text_time(configs: Configs) -> bool:
    """Whether the U-Net's time path is told a pooled text."""
    return configs["unet"].get("addition_embed_type") == "text_time"


def _is_plain(configs: Configs, act: str) -> bool:
    """Whether a U-Net is told the hidden states of a CLIP text encoder with this activation, and nothing else."""
    return _has_clip(configs) and not _has_text_time(configs) and configs["text_encoder"].get("hidden_act", "quick_gelu") == act


SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1.x and its relatives (CLIP-L text encoder)",
    needs=_NEEDS,
    pipelines=_PIPELINES,
    folders=_FOLDERS,
    conditioner=TextConditioner,
    guidance=7.5,
    scaling_factor=0.18215,
    matches=lambda configs: _is_plain(configs, "quick_gelu"),
)
SD2 = Family(
    name="sd2",
    title="Stable Diffusion 2.x (OpenCLIP-H text encoder, linear projections)",
    needs=_NEEDS,
    pipelines=_PIPELINES,
    folders=_FOLDERS,
    conditioner=TextConditioner,
    guidance=7.5,
    scaling_factor=0.18215,
    matches=lambda configs: _is_plain(configs, "gelu"),
)
SDXL = Family(
    name="sdxl",
    title="Stable Diffusion XL (two text encoders, size and pooled text in the time path)",
    needs="a diffusers folder (also text_encoder_2 and tokenizer_2; weights as .safetensors) or one file",
    pipelines=("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"),
    folders=(*_FOLDERS, "text_encoder_2", "tokenizer_2"),
    conditioner=PooledTextConditioner,
    guidance=5.0,
    scaling_factor=0.18215,  # AutoencoderKL's own default; every VAE of SDXL says 0.13025
    matches=lambda configs: _has_clip(configs) and _has_text_time(configs),
    takes_statistics=True,
)
