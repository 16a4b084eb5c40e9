"""Text encoders and VAE decoder of a checkpoint as torch modules of plain tensors: they stay in float."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.variants import weights_variant
from s2p_runtime.bundle import TokenizerSpec
from s2p_runtime.errors import S2PError
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

    def __init__(self, first: Any, second: Any, spec: TokenizerSpec) -> None:
        """
        Args:
            first, second: transformers' CLIPTextModel and CLIPTextModelWithProjection; both are taken apart.
            spec: of the second tokenizer.
        """
        super().__init__()
        first.encoder.layers = first.encoder.layers[:-1]
        first.final_layer_norm = nn.Identity()
        text = second.text_model
        text.encoder.layers[-1] = _Tapped(text.encoder.layers[-1])
        text.final_layer_norm = _TappedNorm(text.final_layer_norm)
        self.first, self.second, self.projection = first, text, second.text_projection
        self.end_id = _end_id(second.config, spec)
        self.register_buffer("earlier", torch.ones(spec.max_length, spec.max_length).triu(1))

    def forward(self, input_ids: Tensor, second_input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """int32 [1, N] each -> hidden states [1, N, D], pooled text [1, P]."""
        before, last = self.second(input_ids=second_input_ids, return_dict=False)[0].chunk(2, dim=-1)
        end = second_input_ids.amax(dim=1, keepdim=True) if self.end_id is None else self.end_id
        ends = (second_input_ids == end).to(last.dtype)
        # 1 at the first end of text, 0 elsewhere: an end counts when none lies before it. No search, no gather.
        first_end = torch.relu(ends - ends @ self.earlier)
        pooled = self.projection((first_end[:, None, :] @ last)[:, 0])
        hidden = torch.cat([self.first(input_ids=input_ids, return_dict=False)[0], before], dim=-1)
        return hidden, pooled


def _end_id(config: Any, spec: TokenizerSpec) -> int | None:
    """The id whose first place transformers' CLIPTextModel pools; None: the largest in the text.

    Configurations older than transformers 4.31 say 2 and mean the largest: the end of text, unless tokens were added behind it.
    """
    if config.eos_token_id != 2:
        return int(config.eos_token_id)
    return spec.eos_id if all(token.id <= spec.eos_id for token in spec.added_tokens) else None


class _Decoder(nn.Module):
    """Decoder half of an AutoencoderKL."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder

    def forward(self, latents: Tensor) -> Tensor:
        hidden = latents if self.post_quant_conv is None else self.post_quant_conv(latents)
        image: Tensor = self.decoder(hidden)
        return image


def _options(folder: Path) -> dict[str, Any]:
    """How a component of a checkpoint is opened: from its own files, under the variant that they have."""
    return {"local_files_only": True, "use_safetensors": True, "variant": weights_variant(folder)}


class _Encoder(nn.Module):
    """Encoder half of an AutoencoderKL, to the moments of its distribution."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv

    def forward(self, image: Tensor) -> Tensor:
        hidden: Tensor = self.encoder(image)
        moments: Tensor = hidden if self.quant_conv is None else self.quant_conv(hidden)
        return moments


def import_classes() -> None:
    """Import the libraries' classes that the modules here are made of. It takes seconds, and whoever waits anyway can do it then."""
    with quiet_import():
        from diffusers import AutoencoderKL  # noqa: F401
        from transformers import CLIPTextModel, CLIPTextModelWithProjection  # noqa: F401


def text_encoder_module(checkpoint: Checkpoint) -> nn.Module:
    """The checkpoint's text encoder in float32: input_ids [1, N] -> last hidden state [1, N, D]."""
    with quiet_import():
        from transformers import CLIPTextModel

        model = CLIPTextModel.from_pretrained(
            checkpoint.folder / "text_encoder", dtype=torch.float32, **_options(checkpoint.folder / "text_encoder")
        )
    return _TextEncoder(model).eval().requires_grad_(False)


def text_encoders_module(checkpoint: Checkpoint) -> nn.Module:
    """Both text encoders of an SDXL checkpoint in float32: two int32 [1, N] -> hidden states [1, N, D], pooled text [1, P]."""
    with quiet_import():
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        first, second = (
            kind.from_pretrained(checkpoint.folder / name, dtype=torch.float32, **_options(checkpoint.folder / name))
            for kind, name in ((CLIPTextModel, "text_encoder"), (CLIPTextModelWithProjection, "text_encoder_2"))
        )
    conditioning = checkpoint.manifest.conditioning
    assert conditioning is not None
    return _TextEncoders(first, second, conditioning.second_tokenizer).eval().requires_grad_(False)


def decoder_module(checkpoint: Checkpoint) -> nn.Module:
    """The checkpoint's VAE decoder in float32: latents [1, C, H, W] -> image [1, 3, 8H, 8W]."""
    return _Decoder(_vae(checkpoint)).eval().requires_grad_(False)


def encoder_module(checkpoint: Checkpoint) -> nn.Module:
    """The checkpoint's VAE encoder in float32: image [1, 3, 8H, 8W] -> moments [1, 2 C, H, W], means before log variances."""
    return _Encoder(_vae(checkpoint)).eval().requires_grad_(False)


def _vae(checkpoint: Checkpoint) -> Any:
    with quiet_import():
        from diffusers import AutoencoderKL

        return AutoencoderKL.from_pretrained(
            checkpoint.folder / "vae", torch_dtype=torch.float32, **_options(checkpoint.folder / "vae")
        )


def image_shape(checkpoint: Checkpoint, latents: tuple[int, int]) -> tuple[int, int, int, int]:
    """[1, 3, H, W] of what the VAE makes of latents of a height and width.

    Raises:
        S2PError: the VAE's configuration is unreadable.
    """
    factor, config = pixels_per_latent(checkpoint), _vae_config(checkpoint)
    return 1, int(config.get("out_channels", 3)), latents[0] * factor, latents[1] * factor


def pixels_per_latent(checkpoint: Checkpoint) -> int:
    """Pixels to one latent, along each axis: the VAE halves once less than it has blocks.

    Raises:
        S2PError: the VAE's configuration is unreadable.
    """
    return 1 << (len(_vae_config(checkpoint)["block_out_channels"]) - 1)


def vae_work(checkpoint: Checkpoint, latents: tuple[int, int]) -> int:
    """Multiplications in the residual blocks of a VAE's decoder, most of it all, for latents of a height and width; an encoder's are
    two thirds of them.

    Raises:
        S2PError: the VAE's configuration is unreadable.
    """
    config = _vae_config(checkpoint)
    convolutions = 2 * (int(config.get("layers_per_block", 1)) + 1)
    height, width = latents
    # The deepest level has the latents' size, each further one twice its height and width.
    return sum(
        convolutions * 9 * channels**2 * height * width * 4**level
        for level, channels in enumerate(reversed(config["block_out_channels"]))
    )


def _vae_config(checkpoint: Checkpoint) -> dict[str, Any]:
    path = checkpoint.folder / "vae" / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        len(config["block_out_channels"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise S2PError(f"{path} does not say how many blocks the VAE has ({error})", "make the checkpoint again") from error
    return config
