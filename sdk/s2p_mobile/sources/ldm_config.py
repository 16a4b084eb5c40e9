"""A single-file checkpoint in the original (LDM) layout: its parts, and their diffusers configurations, built in, with the shapes
that the file has."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."

_GROUPS = 32
"""Of the group norms in U-Net and VAE."""


@dataclass(frozen=True)
class Heads:
    """How a U-Net's attention is divided: so many heads at every width, or so many channels each. Shapes do not tell."""

    count: int | None = None
    channels: int | None = None


SD1_HEADS = Heads(count=8)
SD2_HEADS = Heads(channels=64)
"""Of 2.x and XL."""


class UntoldShapeError(Exception):
    """The weights do not belong to the heads, groups or vocabulary that every single file has: none of them is in the file."""


def component_part(tensors: Tensors, prefix: str) -> Tensors:
    """One component, under its full names (diffusers strips the prefix itself)."""
    return {key: value for key, value in tensors.items() if key.startswith(prefix)}


def write_component(folder: Path, config: dict[str, Any], tensors: Tensors) -> None:
    """Write a component's configuration and weights into a new folder."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    stem = "model" if folder.name.startswith("text_encoder") else "diffusion_pytorch_model"
    contiguous = {key: value.contiguous() for key, value in tensors.items()}
    save_file(contiguous, folder / f"{stem}.safetensors", metadata={"format": "pt"})


def unet_config(tensors: Tensors, heads: Heads, sample_size: int | list[int]) -> dict[str, Any]:
    """Configuration of the U-Net.

    Args:
        heads: of its attention.
        sample_size: of latents, or height and width.

    Raises:
        UntoldShapeError: a width that these heads, or the 32 groups of its norms, do not divide.
    """
    channels, layers = [int(_input(tensors, 0, "0.weight").shape[0])], [0]
    down: list[list[int]] = [[]]
    context, linear = 0, False
    index = 1
    while True:
        resnet = tensors.get(f"{UNET_PREFIX}input_blocks.{index}.0.in_layers.2.weight")
        if resnet is None and f"{UNET_PREFIX}input_blocks.{index}.0.op.weight" not in tensors:
            break
        if resnet is None:
            channels, layers, down = [*channels, channels[-1]], [*layers, 0], [*down, []]
        else:
            channels[-1], layers[-1] = int(resnet.shape[0]), layers[-1] + 1
            projection = tensors.get(f"{UNET_PREFIX}input_blocks.{index}.1.proj_in.weight")
            if projection is not None:
                linear = projection.dim() == 2
                context = int(_input(tensors, index, "1.transformer_blocks.0.attn2.to_k.weight").shape[1])
                down[-1].append(_depth(tensors, f"input_blocks.{index}.1."))
        index += 1
    up = [
        [_depth(tensors, f"output_blocks.{level * (layers[0] + 1) + layer}.1.") for layer in range(layers[0] + 1)]
        for level in range(len(channels))
    ]
    attention = [bool(depths) for depths in down]
    has_middle = any(key.startswith(f"{UNET_PREFIX}middle_block.") for key in tensors)
    middle = _depth(tensors, "middle_block.1.") if has_middle else None
    for width, attends in zip(
        channels, [*attention[:-1], attention[-1] or has_middle], strict=True
    ):  # the middle: the last width
        require_multiple("U-Net", width, _GROUPS, "groups of its norms")
        if attends and heads.channels:
            require_multiple("U-Net", width, heads.channels, "channels of a head")
        if attends and heads.count:
            require_multiple("U-Net", width, heads.count, "heads")
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size,
        "in_channels": int(_input(tensors, 0, "0.weight").shape[1]),
        "out_channels": int(tensors[f"{UNET_PREFIX}out.2.weight"].shape[0]),
        "block_out_channels": channels,
        "layers_per_block": layers[0],
        "down_block_types": ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in attention[::-1]],
        **_depths(down, middle, up),
        "cross_attention_dim": context,
        # diffusers calls the number of heads so.
        "attention_head_dim": heads.count or [max(1, width // (heads.channels or 1)) for width in channels],
        "use_linear_projection": linear,
        "class_embed_type": None,
        "addition_embed_type": None,
    }


def _depth(tensors: Tensors, place: str) -> int:
    """Transformer blocks of an attention; 0 where there is none."""
    blocks = f"{UNET_PREFIX}{place}transformer_blocks."
    return max((int(key.removeprefix(blocks).split(".")[0]) + 1 for key in tensors if key.startswith(blocks)), default=0)


def _depths(down: list[list[int]], middle: int | None, up: list[list[int]]) -> dict[str, Any]:
    """What a configuration says of the depths of attentions, and of the middle.

    Args:
        down: of the attentions of each level; empty where it has none.
        middle: of its attention; None where there is no middle.
        up: of each layer of each level, the lowest first; 0 where there is no attention.

    Raises:
        UntoldShapeError: a middle of another depth than diffusers gives it, which is the first of the last level's.
    """
    if middle and down[-1] and middle != down[-1][0]:
        raise UntoldShapeError(f"its middle is {middle} transformers deep, and the level before it {down[-1][0]}")

    def told(depths: list[int], otherwise: int) -> int | list[int]:
        return (depths[0] if len(set(depths)) == 1 else depths) if any(depths) else otherwise

    way_down = [told(depths, (middle or 1) if level == len(down) - 1 else 1) for level, depths in enumerate(down)]
    way_up = [told(depths, 1) for depths in up]
    # Without a list of its own the way up has the way down's, turned round.
    turned = [told(depths, 1) for depths in down[::-1]]
    return {
        "transformer_layers_per_block": way_down,
        **(
            {}
            if way_up == turned and all(isinstance(each, int) for each in way_down)
            else {"reverse_transformer_layers_per_block": way_up}
        ),
        **({"mid_block_type": None} if middle is None else {}),
    }


def vae_config(tensors: Tensors, scaling_factor: float) -> dict[str, Any]:
    """Configuration of the VAE, told by its decoder: a file may lack the encoder, which drawing does not need.

    Raises:
        UntoldShapeError: a width that the 32 groups of its norms do not divide.
    """
    decoder = f"{VAE_PREFIX}decoder."
    channels: list[int] = []
    while (conv := tensors.get(f"{decoder}up.{len(channels)}.block.0.conv1.weight")) is not None:
        channels.append(int(conv.shape[0]))
        require_multiple("VAE", channels[-1], _GROUPS, "groups of its norms")
    layers = 0
    while f"{decoder}up.0.block.{layers}.conv1.weight" in tensors:
        layers += 1
    latents = tensors[f"{decoder}conv_in.weight"]
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": channels,
        # The decoder has one more a level than the encoder, whose number this is.
        "layers_per_block": layers - 1,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "latent_channels": int(latents.shape[1]),
        "use_post_quant_conv": f"{VAE_PREFIX}post_quant_conv.weight" in tensors,
        "mid_block_add_attention": any(key.startswith(f"{decoder}mid.attn_1.") for key in tensors),
        "scaling_factor": scaling_factor,
    }


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


def require_multiple(part: str, width: int, of: int, what: str) -> None:
    """Raise :class:`UntoldShapeError` unless a component's width divides into ``of`` heads, channels or groups."""
    if width == 0 or width % of:
        raise UntoldShapeError(f"its {part} is {width} channels wide, no multiple of the {of} {what} in every single file")


def _input(tensors: Tensors, index: int, name: str) -> torch.Tensor:
    return tensors[f"{UNET_PREFIX}input_blocks.{index}.{name}"]
