"""The registry of families."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from s2p_runtime.errors import S2PError

Config = Mapping[str, Any]

LCM_GUIDANCE = 8.5
"""Guidance that diffusers' LatentConsistencyModelPipeline embeds by default."""
LCM_STEPS = 4


@dataclass(frozen=True)
class Family:
    """A kind of Stable Diffusion.

    Attributes:
        needs: what a model folder of this family holds, for people.
        pipelines: diffusers classes in ``model_index.json``.
        folders: components beside the U-Net, all needed.
        guidance: default classifier-free guidance.
        steps: default denoising steps, with the model's own scheduler.
        recipe: default recipe.
        scaling_factor: of the latents, where the VAE's configuration does not say.
        matches: decides from (U-Net configuration, configuration of the first text encoder).
    """

    name: str
    title: str
    needs: str
    pipelines: tuple[str, ...]
    folders: tuple[str, ...]
    guidance: float
    scaling_factor: float
    matches: Callable[[Config, Config], bool]
    steps: int = 25
    recipe: str = "w4a8-mixed"

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """Folders of the text encoders."""
        return tuple(name for name in self.folders if name.startswith("text_encoder"))


_FOLDERS = ("text_encoder", "vae", "tokenizer", "scheduler")
_PIPELINES = ("StableDiffusionPipeline", "LatentConsistencyModelPipeline")
_NEEDS = "a diffusers folder (unet, text_encoder, vae, tokenizer, scheduler; weights as .safetensors) or one .safetensors file"


def _text_time(unet: Config) -> bool:
    return unet.get("addition_embed_type") == "text_time"


FAMILIES = (
    Family(
        name="sd1",
        title="Stable Diffusion 1.x and its relatives (CLIP-L text encoder)",
        needs=_NEEDS,
        pipelines=_PIPELINES,
        folders=_FOLDERS,
        guidance=7.5,
        scaling_factor=0.18215,
        matches=lambda unet, text: not _text_time(unet) and text.get("hidden_act", "quick_gelu") == "quick_gelu",
    ),
    Family(
        name="sd2",
        title="Stable Diffusion 2.x (OpenCLIP-H text encoder, linear projections)",
        needs=_NEEDS,
        pipelines=_PIPELINES,
        folders=_FOLDERS,
        guidance=7.5,
        scaling_factor=0.18215,
        matches=lambda unet, text: not _text_time(unet) and text.get("hidden_act") == "gelu",
    ),
    Family(
        name="sdxl",
        title="Stable Diffusion XL (two text encoders, size and pooled text in the time path)",
        needs="a diffusers folder (also text_encoder_2 and tokenizer_2; weights as .safetensors) or one .safetensors file",
        pipelines=("StableDiffusionXLPipeline",),
        folders=(*_FOLDERS, "text_encoder_2", "tokenizer_2"),
        guidance=5.0,
        scaling_factor=0.13025,
        matches=lambda unet, text: _text_time(unet),
    ),
)


def recognise(name: str, unet: Config, text_encoder: Config) -> Family:
    """The family of a model.

    Args:
        name: of the model, for the message.
        unet, text_encoder: contents of ``unet/config.json`` and ``text_encoder/config.json``.

    Raises:
        S2PError: no family has such a text encoder.
    """
    kind = (text_encoder.get("architectures") or ["CLIPTextModel"])[0]
    if not str(kind).startswith("CLIPTextModel"):
        raise S2PError(f"the text encoder of {name} is a {kind}", f"supported is CLIPTextModel ({_names()})")
    for family in FAMILIES:
        if family.matches(unet, text_encoder):
            return family
    act = text_encoder.get("hidden_act")
    raise S2PError(f"the text encoder of {name} (hidden_act {act!r}) belongs to no known family", f"known are {_names()}")


def _names() -> str:
    return ", ".join(family.name for family in FAMILIES)
