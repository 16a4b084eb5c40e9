"""The parts of a pipeline around the U-Net: text encoder, VAE, tokenizer. Models and checkpoints share them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from s2p_mobile.sources.modules import load_module
from s2p_runtime.bundle import Conditioning, LatentSpec, TokenizerSpec
from s2p_runtime.quiet import quiet_import
from s2p_runtime.tokenizer import ClipTokenizer

COMPONENT_FOLDERS = ("text_encoder", "vae", "tokenizer", "scheduler")
"""Of every family; SDXL has a second text encoder and tokenizer too."""
SECOND_FOLDERS = ("text_encoder_2", "tokenizer_2")


@dataclass(frozen=True, eq=False)
class Texts:
    """Encoded texts.

    Attributes:
        token_ids: of the first tokenizer, int32 [B, N].
        embeddings: float32 [B, N, D].
        pooled: pooled text, float32 [B, P], where the time table belongs to the prompt (SDXL); else None.
    """

    token_ids: NDArray[np.int32]
    embeddings: NDArray[np.float32]
    pooled: NDArray[np.float32] | None = None


class Components:
    """Text encoders, VAE and tokenizer of a folder in diffusers layout. Weights are loaded at first use, in float32.

    Attributes:
        conditioning: SDXL's; None in other families.
    """

    def __init__(
        self, folder: Path, tokenizer_spec: TokenizerSpec, latents: LatentSpec, conditioning: Conditioning | None = None
    ) -> None:
        self.folder, self.tokenizer_spec, self.latents, self.conditioning = folder, tokenizer_spec, latents, conditioning

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
    def text_encoder_2(self) -> Any | None:
        """SDXL's second text encoder, transformers CLIPTextModelWithProjection, float32; None in other families."""
        if not (self.folder / "text_encoder_2").is_dir():
            return None
        with quiet_import():
            from transformers import CLIPTextModelWithProjection
        return load_module(CLIPTextModelWithProjection, self.folder / "text_encoder_2")

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
        """Text embedding: int32 [B, N] -> float32 [B, N, D]; SDXL's is :meth:`embed_and_pool` without the pooled text."""
        if self.conditioning is not None:
            return self.embed_and_pool(token_ids)[0]
        hidden: NDArray[np.float32] = self.text_encoder(torch.from_numpy(token_ids).long())[0].numpy()
        return hidden

    @torch.no_grad()
    def embed_and_pool(self, token_ids: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """SDXL's text conditions, as ``encode_prompt`` of diffusers' StableDiffusionXLPipeline makes them for a given text.

        Args:
            token_ids: of the first tokenizer, int32 [B, N].

        Returns:
            Penultimate hidden states of both encoders side by side, float32 [B, N, D1 + D2]; the second's projected end-of-text
            state, float32 [B, P].
        """
        assert self.text_encoder_2 is not None and self.conditioning is not None
        second_ids = self.conditioning.second_token_ids(token_ids, self.tokenizer_spec.eos_id)
        first = self.text_encoder(torch.from_numpy(token_ids).long(), output_hidden_states=True)
        second = self.text_encoder_2(torch.from_numpy(second_ids).long(), output_hidden_states=True)
        hidden = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=2)
        return hidden.numpy(), second.text_embeds.numpy()

    def encode(self, text: str, guided: bool, negative: str | None = None) -> Texts:
        """What the U-Net is told about a text; with ``guided`` about the negative one first, which is the empty text when None."""
        token_ids = np.concatenate([self.token_ids(t) for t in ([negative or "", text] if guided else [text])])
        if self.conditioning is None:
            return Texts(token_ids, self.embed(token_ids))
        embeddings, pooled = self.embed_and_pool(token_ids)
        if guided and negative is None and self.conditioning.zero_unconditional:
            embeddings[0], pooled[0] = 0, 0
        return Texts(token_ids, embeddings, pooled)

    @torch.no_grad()
    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Final state [1, C, H, W] -> decoder output [1, 3, 8H, 8W], float32."""
        scaled = self.latents.decoder_input(latents)
        image: NDArray[np.float32] = self.vae.decode(torch.from_numpy(scaled)).sample.numpy()
        return image
