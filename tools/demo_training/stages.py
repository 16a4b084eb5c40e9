"""The stages in order, and the finished pipeline folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from transformers import CLIPTokenizer

from demo_training.captions import all_captions
from demo_training.clip import train_clip
from demo_training.config import TrainConfig
from demo_training.data import Pictures, Renderer, load_sprites
from demo_training.diffusion import new_scheduler, train_diffusion
from demo_training.state import Clock
from demo_training.tokenizer import build_tokenizer, save_tokenizer
from demo_training.vae import train_autoencoder
from s2p_runtime.files import atomic_folder

Stage = Literal["data", "tokenizer", "vae", "unet", "clip", "all"]

_CLASSES = {
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@dataclass
class Training:
    """One training in one folder: ``sprites.safetensors``, ``tokenizer/``, ``state/`` and, at the end, ``model/``.

    Each stage first runs what it needs of the earlier ones, which return at once when they are finished.

    Attributes:
        out: the folder.
        config: all settings.
        renderer: makes the emoji renderer; called only when sprites are to be made.
        device: of the networks.
        clock: when to save, when to stop.
    """

    out: Path
    config: TrainConfig
    renderer: Callable[[], Renderer]
    device: torch.device
    clock: Clock

    @property
    def _state(self) -> Path:
        return self.out / "state"

    def data(self) -> Pictures:
        """Sprites, rendered if need be."""
        path = self.out / "sprites.safetensors"
        sprites = load_sprites(path, self.config.data, self.config.fingerprint(), self.renderer)
        return Pictures(sprites, self.config.data)

    def tokenizer(self) -> Any:
        """The tokenizer, learned if need be."""
        folder = self.out / "tokenizer"
        if not folder.exists():
            learned = build_tokenizer((c.text for c in all_captions()), self.config.vocabulary, self.config.token_length)
            with atomic_folder(folder) as scratch:
                save_tokenizer(learned, scratch)
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)

    def vae(self) -> Any:
        """The autoencoder."""
        return train_autoencoder(self.config, self.data(), self._state, self.device, self.clock)

    def unet(self) -> Any:
        """Text encoder and U-Net."""
        return train_diffusion(self.config, self.data(), self.tokenizer(), self.vae(), self._state, self.device, self.clock)

    def clip(self) -> Any:
        """The judge."""
        return train_clip(self.config, self.data(), self.tokenizer(), self._state, self.device, self.clock)

    def all(self) -> Path:
        """Every stage, then the pipeline in fp16 under ``model/`` (an earlier one is replaced); its folder."""
        diffusion, vae, clip = self.unet(), self.vae(), self.clip()
        target = self.out / "model"
        with atomic_folder(target, force=True) as scratch:
            for name, network in (
                ("text_encoder", diffusion.text_encoder),
                ("unet", diffusion.unet),
                ("vae", vae),
                ("clip", clip),
            ):
                network.half().save_pretrained(str(scratch / name), safe_serialization=True)
            new_scheduler().save_pretrained(str(scratch / "scheduler"))
            shutil.copytree(self.out / "tokenizer", scratch / "tokenizer")
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copyfile(self.out / "tokenizer" / file, scratch / "clip" / file)
            index = {
                "_class_name": "StableDiffusionPipeline",
                "_diffusers_version": diffusers.__version__,
                **{name: [None, None] for name in ("feature_extractor", "image_encoder", "safety_checker")},
                "requires_safety_checker": False,
                **_CLASSES,
            }
            (scratch / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")
        return target
