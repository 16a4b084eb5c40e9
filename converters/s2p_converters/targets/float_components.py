"""The components that stay in float: text encoder and VAE decoder of a checkpoint as single-tensor torch modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from s2p_converters.core.checkpoint import Checkpoint
from s2p_runtime.quiet import quiet_import


class _TextEncoder(nn.Module):
    """Last hidden state of a CLIPTextModel."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden: Tensor = self.model(input_ids=input_ids, return_dict=False)[0]
        return hidden


class _Tapped(nn.Module):
    """A transformer layer that hands its input on beside its output, side by side along the last axis."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return torch.cat([hidden, self.layer(hidden, *args, **kwargs)], dim=-1)


class _TappedNorm(nn.Module):
    """The norm behind a :class:`_Tapped` layer: of its output alone."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, both: Tensor) -> Tensor:
        before, last = both.chunk(2, dim=-1)
        return torch.cat([before, self.norm(last)], dim=-1)


class _TextEncoders(nn.Module):
    """SDXL's two text encoders: penultimate hidden states side by side, and the second's projected end-of-text state.

    As ``encode_prompt`` of diffusers' StableDiffusionXLPipeline. The layer behind the first's penultimate state is left out.
    """

    earlier: Tensor

    def __init__(self, first: Any, second: Any, eos_id: int, tokens: int) -> None:
        super().__init__()
        first.encoder.layers = first.encoder.layers[:-1]
        first.final_layer_norm = nn.Identity()
        text = second.text_model
        text.encoder.layers[-1] = _Tapped(text.encoder.layers[-1])
        text.final_layer_norm = _TappedNorm(text.final_layer_norm)
        self.first, self.second, self.projection, self.eos_id = first, text, second.text_projection, eos_id
        self.register_buffer("earlier", torch.ones(tokens, tokens).triu(1))

    def forward(self, input_ids: Tensor, second_input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """int32 [1, N] each -> hidden states [1, N, D], pooled text [1, P]."""
        before, last = self.second(input_ids=second_input_ids, return_dict=False)[0].chunk(2, dim=-1)
        ends = (second_input_ids == self.eos_id).to(last.dtype)
        # 1 at the first end of text, 0 elsewhere: an end counts when none lies before it. No search, no gather.
        first_end = torch.relu(ends - ends @ self.earlier)
        pooled = self.projection((first_end[:, None, :] @ last)[:, 0])
        hidden = torch.cat([self.first(input_ids=input_ids, return_dict=False)[0], before], dim=-1)
        return hidden, pooled


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


def text_encoders_module(checkpoint: Checkpoint) -> nn.Module:
    """Both text encoders of an SDXL checkpoint in float32: two int32 [1, N] -> hidden states [1, N, D], pooled text [1, P]."""
    with quiet_import():
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        first, second = (
            kind.from_pretrained(checkpoint.folder / name, dtype=torch.float32, local_files_only=True, use_safetensors=True)
            for kind, name in ((CLIPTextModel, "text_encoder"), (CLIPTextModelWithProjection, "text_encoder_2"))
        )
    spec = checkpoint.manifest.tokenizer
    return _TextEncoders(first, second, spec.eos_id, spec.max_length).eval().requires_grad_(False)


def decoder_module(checkpoint: Checkpoint) -> nn.Module:
    """The checkpoint's VAE decoder in float32: latents [1, C, H, W] -> image [1, 3, 8H, 8W]."""
    with quiet_import():
        from diffusers import AutoencoderKL

        vae = AutoencoderKL.from_pretrained(
            checkpoint.folder / "vae", torch_dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    return _Decoder(vae).eval().requires_grad_(False)
