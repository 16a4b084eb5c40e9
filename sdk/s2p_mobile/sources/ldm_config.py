"""A single-file checkpoint in the original (LDM) layout: its parts, and their diffusers configurations, built in, with the shapes
that the file has."""

from __future__ import annotations

import gzip
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CLIP_PREFIX = "cond_stage_model.transformer."
OPEN_CLIP_PREFIX = "cond_stage_model.model."

_HEAD_WIDTH = 64
"""Channels of a head in every text encoder, and in the U-Nets of 2.x and XL."""
_HEADS = 8
"""In the U-Net of 1.x."""
_WORDS = 49408
"""Of CLIP's published vocabulary, which :func:`write_tokenizer` writes."""
_GROUPS = 32
"""Of the group norms in U-Net and VAE."""

_SCHEDULER = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "set_alpha_to_one": False, "steps_offset": 1, "trained_betas": None, "clip_sample": False,
}  # fmt: skip


class UntoldShapeError(Exception):
    """The weights do not belong to the heads, groups or vocabulary that every single file has: none of them is in the file."""


def component_part(tensors: Tensors, prefix: str) -> Tensors:
    """One component, under its full names (diffusers strips the prefix itself)."""
    return {key: value for key, value in tensors.items() if key.startswith(prefix)}


def write_component(folder: Path, config: dict[str, Any], tensors: Tensors, stem: str) -> None:
    """Write a component's configuration and weights into a new folder."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    contiguous = {key: value.contiguous() for key, value in tensors.items() if not key.endswith("position_ids")}
    save_file(contiguous, folder / f"{stem}.safetensors", metadata={"format": "pt"})


def scheduler_config(prediction_type: str, v2: bool) -> dict[str, Any]:
    """Scheduler of the published models: PNDM for 1.x, DDIM for 2.x."""
    own = {"_class_name": "DDIMScheduler"} if v2 else {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
    return {**own, **_SCHEDULER, "prediction_type": prediction_type}


def unet_config(tensors: Tensors, v2: bool, sample_size: int) -> dict[str, Any]:
    """Configuration of the U-Net. Heads cannot be read from shapes: 8 in 1.x, 64 channels each in 2.x.

    Raises:
        UntoldShapeError: a width that these heads, or the 32 groups of its norms, do not divide.
    """
    channels, layers, attention, depths = [int(_input(tensors, 0, "0.weight").shape[0])], [0], [False], [1]
    context, linear = 0, False
    index = 1
    while True:
        resnet = tensors.get(f"{UNET_PREFIX}input_blocks.{index}.0.in_layers.2.weight")
        if resnet is None and f"{UNET_PREFIX}input_blocks.{index}.0.op.weight" not in tensors:
            break
        if resnet is None:
            channels, layers, attention, depths = [*channels, channels[-1]], [*layers, 0], [*attention, False], [*depths, 1]
        else:
            channels[-1], layers[-1] = int(resnet.shape[0]), layers[-1] + 1
            projection = tensors.get(f"{UNET_PREFIX}input_blocks.{index}.1.proj_in.weight")
            if projection is not None:
                attention[-1], linear = True, projection.dim() == 2
                blocks = f"{UNET_PREFIX}input_blocks.{index}.1.transformer_blocks."
                context = int(tensors[f"{blocks}0.attn2.to_k.weight"].shape[1])
                depths[-1] = len({key.removeprefix(blocks).split(".")[0] for key in tensors if key.startswith(blocks)})
        index += 1
    for width, attends in zip(channels, [*attention[:-1], True], strict=True):  # the middle attends, at the last width
        _require_multiple("U-Net", width, _GROUPS, "groups of its norms")
        if attends:
            _require_multiple("U-Net", width, *((_HEAD_WIDTH, "channels of a head") if v2 else (_HEADS, "heads")))
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size,
        "in_channels": int(_input(tensors, 0, "0.weight").shape[1]),
        "out_channels": int(tensors[f"{UNET_PREFIX}out.2.weight"].shape[0]),
        "block_out_channels": channels,
        "layers_per_block": layers[0],
        "down_block_types": ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in attention[::-1]],
        "transformer_layers_per_block": depths,
        "cross_attention_dim": context,
        "attention_head_dim": [max(1, width // _HEAD_WIDTH) for width in channels] if v2 else _HEADS,
        "use_linear_projection": linear,
        "upcast_attention": v2,
        "class_embed_type": None,
        "addition_embed_type": None,
    }


def vae_config(tensors: Tensors) -> dict[str, Any]:
    """Configuration of the VAE.

    Raises:
        UntoldShapeError: a width that the 32 groups of its norms do not divide.
    """
    channels: list[int] = []
    while (conv := tensors.get(f"{VAE_PREFIX}encoder.down.{len(channels)}.block.0.conv1.weight")) is not None:
        channels.append(int(conv.shape[0]))
        _require_multiple("VAE", channels[-1], _GROUPS, "groups of its norms")
    layers = 0
    while f"{VAE_PREFIX}encoder.down.0.block.{layers}.conv1.weight" in tensors:
        layers += 1
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "latent_channels": int(tensors[f"{VAE_PREFIX}post_quant_conv.weight"].shape[1]),
        "scaling_factor": 0.18215,
    }


def text_config(tensors: Tensors, v2: bool) -> dict[str, Any]:
    """Configuration of the text encoder. 2.x was trained on the penultimate layer, so the last block is left out.

    Raises:
        UntoldShapeError: a width that heads of 64 channels do not divide, fewer words than CLIP's vocabulary.
    """
    if v2:
        embedding, positions = (
            tensors[f"{OPEN_CLIP_PREFIX}token_embedding.weight"],
            tensors[f"{OPEN_CLIP_PREFIX}positional_embedding"],
        )
        layers = open_clip_blocks(tensors) - 1
    else:
        prefix = f"{CLIP_PREFIX}text_model."
        embedding = tensors[f"{prefix}embeddings.token_embedding.weight"]
        positions = tensors[f"{prefix}embeddings.position_embedding.weight"]
        layers = _count(tensors, f"{prefix}encoder.layers.")
    width = int(embedding.shape[1])
    _require_multiple("text encoder", width, _HEAD_WIDTH, "channels of a head")
    if len(embedding) < _WORDS:
        raise UntoldShapeError(f"its text encoder knows {len(embedding)} words, not the {_WORDS} of CLIP's vocabulary")
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_act": "gelu" if v2 else "quick_gelu",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // _HEAD_WIDTH,
        "vocab_size": int(embedding.shape[0]),
        "max_position_embeddings": int(positions.shape[0]),
        "projection_dim": width,
        "layer_norm_eps": 1e-5,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 1,
    }


def open_clip_blocks(tensors: Tensors) -> int:
    """Residual blocks of an OpenCLIP text encoder."""
    return _count(tensors, f"{OPEN_CLIP_PREFIX}transformer.resblocks.")


def write_tokenizer(folder: Path, pads_with_end: bool) -> None:
    """CLIP's tokenizer from its published merges; 1.x pads with the end of text, 2.x and XL's second with ``!`` (id 0).

    Order of the vocabulary: ``simple_tokenizer.py`` of openai/CLIP (bytes, bytes at a word's end, merges, two markers).
    """
    packed = (files("s2p_mobile.sources") / "clip" / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    merges = gzip.decompress(packed).decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair.split()) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>" if pads_with_end else "!",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _require_multiple(part: str, width: int, of: int, what: str) -> None:
    if width == 0 or width % of:
        raise UntoldShapeError(f"its {part} is {width} channels wide, no multiple of the {of} {what} in every single file")


def _input(tensors: Tensors, index: int, name: str) -> torch.Tensor:
    return tensors[f"{UNET_PREFIX}input_blocks.{index}.{name}"]


def _count(tensors: Tensors, prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in tensors if key.startswith(prefix)})
