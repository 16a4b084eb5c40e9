"""Models of random configurations, written by diffusers itself, with random weights."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch

from loading_configurations import Configuration, Settings
from s2p_mobile.demo import DEMO_MODEL
from s2p_runtime.quiet import quiet_import

with quiet_import():
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


def build(configuration: Configuration, folder: Path) -> None:
    """Write a model in diffusers' layout, by diffusers itself, with random weights.

    Raises:
        Exception: whatever the classes say of a configuration that they do not accept.
    """
    torch.manual_seed(random.Random(configuration.seed).randrange(2**31))
    unet = _made(configuration.unet)
    vae = _made(configuration.vae)
    kinds = (CLIPTextModel, CLIPTextModelWithProjection)
    texts = [kind(CLIPTextConfig(**text)) for kind, text in zip(kinds, configuration.texts, strict=False)]
    # Larger than they come: what a text says, and when, shows in the output.
    for module, factor in ((unet, 1.5), *((text, 3.0) for text in texts)):
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.data.mul_(factor)
    tokenizers = [_tokenizer(folder / f"words{k}", pad) for k, pad in enumerate(configuration.pads)]
    parts: Settings = {"unet": unet, "vae": vae, "scheduler": _made(configuration.scheduler), **configuration.index}
    for suffix, text, tokenizer in zip(("", "_2"), texts, tokenizers, strict=False):
        parts |= {f"text_encoder{suffix}": text.eval(), f"tokenizer{suffix}": tokenizer}
    pipeline = getattr(diffusers, configuration.pipeline)
    if configuration.pipeline != "StableDiffusionXLPipeline":
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline(**parts).save_pretrained(folder)
    for k, suffix in zip(range(len(texts)), ("", "_2"), strict=False):
        shutil.rmtree(folder / f"tokenizer{suffix}")
        (folder / f"words{k}").rename(folder / f"tokenizer{suffix}")
    _write_as_drawn(folder / "scheduler" / "scheduler_config.json", configuration.scheduler)


def _made(settings: Settings) -> Any:
    """A module or a scheduler; settings that its class does not have are left out, as ``from_config`` leaves them."""
    kind = getattr(diffusers, settings["_class_name"])
    made = kind.from_config({name: value for name, value in settings.items() if name != "_class_name"})
    return made.eval() if isinstance(made, torch.nn.Module) else made


def _tokenizer(folder: Path, pad: str) -> Any:
    shutil.copytree(DEMO_MODEL / "tokenizer", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": pad}))
    return CLIPTokenizer.from_pretrained(folder)


def _write_as_drawn(path: Path, settings: Settings) -> None:
    """A scheduler's configuration without what a pipeline changed in it, and without the defaults of what was left out."""
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({name: settings.get(name, saved[name]) for name in saved if name in settings or name[0] == "_"}))
