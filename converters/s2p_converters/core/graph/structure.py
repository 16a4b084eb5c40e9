"""Reads a diffusers ``unet/config.json`` into the few numbers that the graph needs; what it cannot build is refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from s2p_converters.core.graph.operators import LayerSpec
from s2p_runtime.errors import S2PError

_DOWN_BLOCKS = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
_UP_BLOCKS = {"UpBlock2D": False, "CrossAttnUpBlock2D": True}
_ONLY_VALUE: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "dual_cross_attention": (False,),
    "mid_block_only_cross_attention": (None, False),
    "resnet_time_scale_shift": ("default",),
    "resnet_out_scale_factor": (1, 1.0),
    "mid_block_scale_factor": (1, 1.0),
    "cross_attention_norm": (None,),
    "time_embedding_type": ("positional",),
    "attention_type": ("default",),
    "num_class_embeds": (None,),
    "resnet_skip_time_act": (False,),
    "addition_embed_type": (None, "text_time"),
}


TIME_IDS = 6
"""Numbers about a picture's size: original height and width, top and left of the crop, target height and width."""


@dataclass(frozen=True)
class BlockStructure:
    """One down, mid or up block."""

    name: str
    resnets: tuple[tuple[int, int], ...]
    """(input channels, output channels) of each resnet; in an up block the input includes the skip."""
    attention_layers: tuple[int, ...]
    """Transformer layers after each resnet; empty without attention."""
    heads: int
    resample: bool
    """Ends in a downsampler (down block) or upsampler (up block)."""
    only_cross_attention: bool = False
    """Both attentions of a transformer layer look at the text, none at the picture."""
    skips: tuple[int, ...] = ()
    """Channels of the skip at the end of each resnet's input; up blocks only."""

    def input_parts(self, resnet: int) -> tuple[int, ...]:
        """Channels of what a resnet's input is put together of."""
        inputs = self.resnets[resnet][0]
        return (inputs - self.skips[resnet], self.skips[resnet]) if self.skips else (inputs,)


@dataclass(frozen=True)
class TextTimeStructure:
    """``addition_embed_type = text_time`` of diffusers: a pooled text embedding and six numbers about the picture's size (time ids)
    are added to the time embedding (Podell et al. 2023, arXiv 2307.01952, section 2.2)."""

    pooled_dim: int
    """Width of the pooled text embedding."""
    id_dim: int
    """Width of the sinusoid of each number."""


@dataclass(frozen=True)
class UNetStructure:
    """The shape of a U-Net."""

    in_channels: int
    out_channels: int
    sample_size: tuple[int, int]
    channels: tuple[int, ...]
    conv_in_kernel: int
    conv_out_kernel: int
    groups: int
    eps: float
    downsample_padding: int
    context_dim: int
    linear_projection: bool
    down: tuple[BlockStructure, ...]
    mid: BlockStructure | None
    up: tuple[BlockStructure, ...]
    guidance_dim: int | None = None
    """Width of the guidance embedding that joins the timestep's sinusoid (latent consistency models)."""
    text_time: TextTimeStructure | None = None
    """Where it is there, the time embedding depends on the prompt too."""
    split_shortcuts: bool = False
    """Shortcuts of up blocks are two convolutions, ``conv_shortcut.0`` of the state and ``conv_shortcut.1`` of the skip, whose sum
    is the original's output: each half of the input, whose ranges differ, can then have grids of its own."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> UNetStructure:
        """Read a diffusers UNet2DConditionModel configuration.

        Raises:
            S2PError: another model class, or a setting that the graph does not build (the message names it).
        """
        if config.get("_class_name", "UNet2DConditionModel") != "UNet2DConditionModel":
            raise S2PError(f"the U-Net is a {config['_class_name']}", "only UNet2DConditionModel is supported")
        for key, allowed in _ONLY_VALUE.items():
            if key in config and config[key] not in allowed:
                raise S2PError(f"U-Net setting {key} = {config[key]!r} is not supported", f"use a model with {allowed[0]!r}")
        try:
            return _build(config)
        except (KeyError, TypeError, IndexError) as error:
            raise S2PError(f"unet/config.json is incomplete ({error})", "export the model again with diffusers") from error


def _spread(value: Any, count: int) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] * count


def _build(config: Mapping[str, Any]) -> UNetStructure:
    channels = tuple(config["block_out_channels"])
    count = len(channels)
    for key in ("down_block_types", "up_block_types"):
        if len(config[key]) != count:
            raise S2PError(f"U-Net setting {key} has {len(config[key])} blocks for {count} widths", "correct unet/config.json")
    if config.get("norm_num_groups", 32) is None:
        raise S2PError("U-Net setting norm_num_groups = None is not supported", "use a model with group norms")
    layers = _spread(config.get("layers_per_block", 2), count)
    heads = _spread(config.get("num_attention_heads") or config["attention_head_dim"], count)
    depth = _spread(config.get("transformer_layers_per_block", 1), count)
    # As diffusers: without a list of its own the way up has the way down's depths in reverse.
    up_depth = config.get("reverse_transformer_layers_per_block") or depth[::-1]
    only_cross = _spread(config.get("only_cross_attention", False), count)
    context = _spread(config["cross_attention_dim"], count)
    if len(set(context)) != 1:
        raise S2PError("U-Net setting cross_attention_dim differs between blocks", "use a model with one value")
    down = []
    skips = [channels[0]]
    previous = channels[0]
    for i, kind in enumerate(config["down_block_types"]):
        if kind not in _DOWN_BLOCKS:
            raise S2PError(f"U-Net block {kind} is not supported", f"supported are {', '.join((*_DOWN_BLOCKS, *_UP_BLOCKS))}")
        resnets = tuple((previous if j == 0 else channels[i], channels[i]) for j in range(layers[i]))
        attention = tuple(_spread(depth[i], layers[i])) if _DOWN_BLOCKS[kind] else ()
        _check_heads(heads[i], channels[i], attention)
        resample = i < count - 1
        down.append(BlockStructure(f"down_blocks.{i}", resnets, attention, heads[i], resample, only_cross[i]))
        skips += [channels[i]] * (layers[i] + resample)
        previous = channels[i]
    mid = None
    mid_kind = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    if mid_kind is not None:
        if mid_kind != "UNetMidBlock2DCrossAttn":
            raise S2PError(f"U-Net block {mid_kind} is not supported", "supported is UNetMidBlock2DCrossAttn or none")
        pair = (channels[-1], channels[-1])
        # As diffusers: its middle has one attention, and takes the first of the list.
        mid_depth = depth[-1][0] if isinstance(depth[-1], list | tuple) else depth[-1]
        _check_heads(heads[-1], channels[-1], (mid_depth,))
        mid = BlockStructure("mid_block", (pair, pair), (mid_depth,), heads[-1], False)
    up = []
    for i, kind in enumerate(config["up_block_types"]):
        if kind not in _UP_BLOCKS:
            raise S2PError(f"U-Net block {kind} is not supported", f"supported are {', '.join((*_DOWN_BLOCKS, *_UP_BLOCKS))}")
        level = count - 1 - i
        resnet_count = layers[level] + 1
        own_skips = tuple(skips.pop() for _ in range(resnet_count))
        pairs = []
        for skip in own_skips:
            pairs.append((previous + skip, channels[level]))
            previous = channels[level]
        attention = tuple(_spread(up_depth[i], resnet_count)) if _UP_BLOCKS[kind] else ()
        _check_heads(heads[level], channels[level], attention)
        resample = i < count - 1
        up.append(
            BlockStructure(f"up_blocks.{i}", tuple(pairs), attention, heads[level], resample, only_cross[level], own_skips)
        )
    return UNetStructure(
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        sample_size=_sample_size(config.get("sample_size")),
        channels=channels,
        conv_in_kernel=config.get("conv_in_kernel", 3),
        conv_out_kernel=config.get("conv_out_kernel", 3),
        groups=config.get("norm_num_groups", 32),
        eps=config.get("norm_eps", 1e-5),
        downsample_padding=config.get("downsample_padding", 1),
        context_dim=context[0],
        linear_projection=config.get("use_linear_projection", False),
        down=tuple(down),
        mid=mid,
        up=tuple(up),
        guidance_dim=config.get("time_cond_proj_dim"),
        text_time=_text_time(config),
    )


def _sample_size(value: Any) -> Any:
    """Height and width of the latents; None each where the configuration has none."""
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    numbers = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in pair)
    if value is not None and (len(pair) != 2 or not numbers):
        raise S2PError(
            f"unet/config.json has sample_size = {str(value)[:40]!r}, which is neither a positive number nor two",
            "correct it: the side of the latents, or height and width",
        )
    return pair


def _check_heads(heads: int, channels: int, attention: tuple[int, ...]) -> None:
    """diffusers rounds the width of a head down, so that an attention is narrower than its block."""
    if attention and channels % heads:
        raise S2PError(
            f"U-Net setting attention_head_dim = {heads}, the number of heads, does not divide the width {channels}",
            "use a model whose heads fill the width",
        )


def _text_time(config: Mapping[str, Any]) -> TextTimeStructure | None:
    if config.get("addition_embed_type") != "text_time":
        return None
    if config.get("time_embedding_act_fn") is not None:
        raise S2PError("U-Net setting time_embedding_act_fn is not supported beside text_time", "use a model without it")
    id_dim, width = config["addition_time_embed_dim"], config["projection_class_embeddings_input_dim"]
    return TextTimeStructure(pooled_dim=width - TIME_IDS * id_dim, id_dim=id_dim)


def _transformer_specs(
    name: str, channels: int, depth: int, context: int, linear: bool, only_cross: bool
) -> Iterator[LayerSpec]:
    projection = "linear" if linear else "conv"
    yield LayerSpec(f"{name}.proj_in", projection, channels, channels)  # type: ignore[arg-type]
    for i in range(depth):
        block = f"{name}.transformer_blocks.{i}"
        for attention, source in (("attn1", context if only_cross else channels), ("attn2", context)):
            yield LayerSpec(f"{block}.{attention}.to_q", "linear", channels, channels, bias=False)
            yield LayerSpec(f"{block}.{attention}.to_k", "linear", source, channels, bias=False)
            yield LayerSpec(f"{block}.{attention}.to_v", "linear", source, channels, bias=False)
            yield LayerSpec(f"{block}.{attention}.to_out.0", "linear", channels, channels)
        yield LayerSpec(f"{block}.ff.net.0.proj", "linear", channels, 8 * channels)
        yield LayerSpec(f"{block}.ff.net.2", "linear", 4 * channels, channels)
    yield LayerSpec(f"{name}.proj_out", projection, channels, channels)  # type: ignore[arg-type]


def shortcut_specs(block: BlockStructure, resnet: int, structure: UNetStructure) -> Iterator[LayerSpec]:
    """The shortcut convolutions of a resnet: none, one, or one for each part of its input."""
    inputs, outputs = block.resnets[resnet]
    name = f"{block.name}.resnets.{resnet}.conv_shortcut"
    parts = block.input_parts(resnet)
    if inputs == outputs:
        return
    if not structure.split_shortcuts or len(parts) == 1:
        yield LayerSpec(name, "conv", inputs, outputs)
        return
    for index, channels in enumerate(parts):
        yield LayerSpec(f"{name}.{index}", "conv", channels, outputs, bias=index == 0)


def block_specs(block: BlockStructure, structure: UNetStructure) -> Iterator[LayerSpec]:
    """The layers of one block, in the order in which they run."""
    for j, (inputs, outputs) in enumerate(block.resnets):
        name = f"{block.name}.resnets.{j}"
        yield LayerSpec(f"{name}.conv1", "conv", inputs, outputs, 3, 1, 1)
        yield LayerSpec(f"{name}.conv2", "conv", outputs, outputs, 3, 1, 1)
        yield from shortcut_specs(block, j, structure)
        if j < len(block.attention_layers):
            attention = f"{block.name}.attentions.{j}"
            yield from _transformer_specs(
                attention, outputs, block.attention_layers[j], structure.context_dim, structure.linear_projection,
                block.only_cross_attention,
            )  # fmt: skip
    if block.resample:
        outputs = block.resnets[-1][1]
        down = block.name.startswith("down")
        sampler = "downsamplers" if down else "upsamplers"
        stride, padding = (2, structure.downsample_padding) if down else (1, 1)
        yield LayerSpec(f"{block.name}.{sampler}.0.conv", "conv", outputs, outputs, 3, stride, padding)


def blocks_of(structure: UNetStructure) -> list[BlockStructure]:
    """Down, mid and up blocks in the order in which they run."""
    return [*structure.down, *([structure.mid] if structure.mid else []), *structure.up]


def layer_specs(structure: UNetStructure) -> list[LayerSpec]:
    """Every convolution and linear layer outside the time path, in the order in which they run."""
    kernel_in, kernel_out = structure.conv_in_kernel, structure.conv_out_kernel
    first = structure.channels[0]
    specs = [LayerSpec("conv_in", "conv", structure.in_channels, first, kernel_in, 1, (kernel_in - 1) // 2)]
    for block in blocks_of(structure):
        specs.extend(block_specs(block, structure))
    specs.append(LayerSpec("conv_out", "conv", first, structure.out_channels, kernel_out, 1, (kernel_out - 1) // 2))
    return specs


def resnet_names(structure: UNetStructure) -> dict[str, int]:
    """Resnet name -> output channels, the columns of the time table, in the order in which they run."""
    return {
        f"{block.name}.resnets.{j}": outputs for block in blocks_of(structure) for j, (_, outputs) in enumerate(block.resnets)
    }


def prompt_columns(structure: UNetStructure) -> dict[str, int]:
    """``<resnet>.time`` -> width of the time columns that each prompt brings for itself; empty where one table serves all prompts."""
    if structure.text_time is None:
        return {}
    return {f"{name}.time": width for name, width in resnet_names(structure).items()}
