"""Names for what cannot be quantized, so that a refusal says what was found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2p_mobile.sources.families.registry import FAMILIES
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import

with quiet_import():
    import diffusers

_KINDS = (
    (r"StableDiffusion3", "Stable Diffusion 3"),
    (r"Flux", "Flux"),
    (r"PixArt", "PixArt"),
    (r"Kandinsky", "Kandinsky"),
    (r"ControlNet", "ControlNet"),
    (r"Inpaint", "inpainting model"),
    (r"PAG", "pipeline with perturbed attention guidance"),
    (r"SAG", "pipeline with self-attention guidance"),
    (r"Img2Img|XLRefiner", "image-to-image model"),
    (r"Upscale", "upscaler"),
    (r"Video|AnimateDiff", "video model"),
    (r"^(Autoencoder|AsymmetricAutoencoder|VQModel)", "VAE alone"),
    (r"^UNet", "U-Net alone"),
    (r"Transformer", "diffusion transformer alone"),
    (r"^(CLIP|T5)", "text encoder alone"),
)


def supported_pipelines() -> tuple[str, ...]:
    """Classes in ``model_index.json`` that an installed family knows."""
    return tuple(dict.fromkeys(pipeline for family in FAMILIES.entries.values() for pipeline in family.pipelines))


def _kind(name: str) -> str:
    return next((f"{words} ({name})" for pattern, words in _KINDS if re.search(pattern, name)), name)


def refuse_pipeline(folder: Path, index: Mapping[str, Any]) -> None:
    """Raise :class:`S2PError` unless ``model_index.json`` names a supported pipeline."""
    name, supported = str(index.get("_class_name")), supported_pipelines()
    if name not in supported:
        hint = f"supported are text-to-image pipelines of Stable Diffusion: {', '.join(supported)}"
        foreign = "" if name in dir(diffusers) else ", which is no pipeline of diffusers"
        raise S2PError(f"{folder} holds a {_kind(name)}{foreign}", hint)
    if index.get("requires_aesthetics_score"):
        raise S2PError(f"{folder} holds SDXL's refiner ({name})", "give the base model, which draws from texts")


def refuse_folder(folder: Path, config: Mapping[str, Any]) -> S2PError:
    """The error for a folder with a lone ``config.json`` of diffusers or transformers."""
    name = config.get("_class_name") or next(iter(config.get("architectures") or []), None) or config.get("model_type")
    what = f"is a {_kind(str(name))}" if name else "has no model_index.json, so it is no diffusers model"
    return S2PError(f"{folder} {what}", "give the folder of a whole pipeline, the one that holds model_index.json")
