"""The components that stay in float: text encoder and VAE decoder of a checkpoint as single-tensor torch modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from s2p_converters.checkpoint import Checkpoint
from s2p_runtime.quiet import quiet_import


class _TextEncoder(nn.Module):
    """Last hidden state of a CLIPTextModel."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden: Tensor = self.model(input_ids=input_ids, return_dict=False)[0]
        return hidden


class _Decoder(nn.Module):
    """Decoder half of an AutoencoderKL."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder

    def forward(self, latents: Tensor) -> Tensor:
        hidden = latents if self.post_quant_conv is None else self.post_quant_conv(latents)
        image: Tensor = self.decoder(hidden)
        return image


def text_encoder_module(checkpoint: Checkpoint) -> nn.Module:
    """The checkpoint's text encoder in float32: input_ids [1, N] -> last hidden state [1, N, D]."""
    with quiet_import():
        from transformers import CLIPTextModel

        model = CLIPTextModel.from_pretrained(
            checkpoint.folder / "text_encoder", dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    return _TextEncoder(model).eval().requires_grad_(False)


def decoder_module(checkpoint: Checkpoint) -> nn.Module:
    """The checkpoint's VAE decoder in float32: latents [1, C, H, W] -> image [1, 3, 8H, 8W]."""
    with quiet_import():
        from diffusers import AutoencoderKL

        vae = AutoencoderKL.from_pretrained(
            checkpoint.folder / "vae", torch_dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    return _Decoder(vae).eval().requires_grad_(False)
