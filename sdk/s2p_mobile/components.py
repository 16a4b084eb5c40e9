"""The parts of a pipeline around the U-Net: text encoder, VAE, tokenizer. Models and checkpoints share them."""

from __future__ import annotations

import contextlib
import io
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from s2p_runtime.bundle import LatentSpec, TokenizerSpec
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import
from s2p_runtime.tokenizer import ClipTokenizer

COMPONENT_FOLDERS = ("text_encoder", "vae", "tokenizer", "scheduler")


class Components:
    """Text encoder, VAE and tokenizer of a folder in diffusers layout. Weights are loaded at first use, in float32."""

    def __init__(self, folder: Path, tokenizer_spec: TokenizerSpec, latents: LatentSpec) -> None:
        self.folder, self.tokenizer_spec, self.latents = folder, tokenizer_spec, latents

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """[1, C, H, W]"""
        return self.latents.shape

    @cached_property
    def text_encoder(self) -> Any:
        """transformers CLIPTextModel, float32."""
        with quiet_import():
            from transformers import CLIPTextModel
        return load_module(CLIPTextModel, self.folder / "text_encoder")

    @cached_property
    def vae(self) -> Any:
        """diffusers AutoencoderKL, float32."""
        with quiet_import():
            from diffusers import AutoencoderKL
        return load_module(AutoencoderKL, self.folder / "vae")

    @cached_property
    def tokenizer(self) -> ClipTokenizer:
        """The runtime's own CLIP tokenizer, as every harness uses it."""
        folder = self.folder / "tokenizer"
        return ClipTokenizer.load(folder / "vocab.json", folder / "merges.txt", self.tokenizer_spec)

    def token_ids(self, text: str) -> NDArray[np.int32]:
        """Token ids of a text, int32 [1, N]."""
        return np.array([self.tokenizer.encode(text)], np.int32)

    @torch.no_grad()
    def embed(self, token_ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Text embedding: int32 [B, N] -> float32 [B, N, D]."""
        hidden: NDArray[np.float32] = self.text_encoder(torch.from_numpy(token_ids).long())[0].numpy()
        return hidden

    @torch.no_grad()
    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Final state [1, C, H, W] -> decoder output [1, 3, 8H, 8W], float32."""
        scaled = self.latents.decoder_input(latents)
        image: NDArray[np.float32] = self.vae.decode(torch.from_numpy(scaled)).sample.numpy()
        return image


def load_module(kind: Any, folder: Path) -> Any:
    """Load a diffusers or transformers module offline in float32."""
    try:
        # Progress bars write to the stream object, which need not be descriptor 2.
        with quiet_import(), contextlib.redirect_stderr(io.StringIO()):
            module = kind.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True, use_safetensors=True)
    except Exception as error:
        reason = str(error).strip().split(". ")[0].splitlines()[0] if str(error).strip() else type(error).__name__
        raise S2PError(f"{folder} cannot be loaded ({reason}); export the model again with diffusers") from error
    return module.eval().requires_grad_(False)


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise S2PError(f"{path} is not readable JSON ({error}); export the model again with diffusers") from error
    if not isinstance(value, dict):
        raise S2PError(f"{path} is not a JSON object; export the model again with diffusers")
    return value
