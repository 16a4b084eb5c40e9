"""A trained pipeline's folder, as diffusers' StableDiffusionPipeline writes and reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers

from demo_training.diffusion import new_scheduler

_CLASSES = {
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def write_pipeline(folder: Path, networks: Mapping[str, Any], tokenizer: Path) -> None:
    """Write a pipeline in fp16, and its judge beside it.

    Args:
        folder: exists, empty.
        networks: ``text_encoder``, ``unet``, ``vae`` and ``clip``; they are in fp16 afterwards.
        tokenizer: folder of the one that the text encoder and the judge share.
    """
    for name, network in networks.items():
        network.half().save_pretrained(str(folder / name), safe_serialization=True)
    new_scheduler().save_pretrained(str(folder / "scheduler"))
    shutil.copytree(tokenizer, folder / "tokenizer")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / file, folder / "clip" / file)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        **{name: [None, None] for name in ("feature_extractor", "image_encoder", "safety_checker")},
        "requires_safety_checker": False,
        **_CLASSES,
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")
