"""The stages in order, and the finished pipeline folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import CLIPTokenizer

from demo_training.captions import all_captions
from demo_training.clip import train_clip
from demo_training.config import TrainConfig
from demo_training.data import Pictures, Renderer, load_sprites
from demo_training.diffusion import train_diffusion
from demo_training.pipeline import write_pipeline
from demo_training.state import Clock
from demo_training.tokenizer import build_tokenizer, save_tokenizer
from demo_training.vae import train_autoencoder
from s2p_runtime.files import atomic_folder

Stage = Literal["data", "tokenizer", "vae", "unet", "clip", "all"]


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
        networks = {**self.unet().modules, "vae": self.vae(), "clip": self.clip()}
        target = self.out / "model"
        with atomic_folder(target, force=True) as scratch:
            write_pipeline(scratch, networks, self.out / "tokenizer")
        return target
