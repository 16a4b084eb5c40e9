"""The U-Net graph. Parameter names are those of diffusers' UNet2DConditionModel, without the time path.

Each block is called with an explicit list of skip tensors, so that a program can end between any two of its :class:`Unit` s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from s2p_converters.core.graph.operators import GraphOperators, LayerSpec, StepRow
from s2p_converters.core.graph.structure import BlockStructure, UNetStructure, block_specs, layer_specs, shortcut_specs


class _Resnet(nn.Module):
    """GroupNorm, SiLU, conv, plus time row, GroupNorm, SiLU, conv, plus shortcut."""

    conv_shortcut: nn.Module | None

    def __init__(
        self, name: str, specs: dict[str, LayerSpec], parts: tuple[int, ...], structure: UNetStructure, ops: GraphOperators[Any]
    ) -> None:
        """
        Args:
            parts: channels of what the input is put together of.
        """
        super().__init__()
        self.ops, self.parts = ops, parts
        self.time_key = f"{name}.time"
        first, second = specs[f"{name}.conv1"], specs[f"{name}.conv2"]
        self.norm1 = nn.GroupNorm(structure.groups, first.in_channels, structure.eps)
        self.conv1 = ops.layer(first)
        self.norm2 = nn.GroupNorm(structure.groups, second.in_channels, structure.eps)
        self.conv2 = ops.layer(second)
        shortcut = f"{name}.conv_shortcut"
        if shortcut in specs:
            self.conv_shortcut = ops.layer(specs[shortcut])
        elif f"{shortcut}.0" in specs:
            self.conv_shortcut = nn.ModuleList(ops.layer(specs[f"{shortcut}.{part}"]) for part in range(len(parts)))
        else:
            self.conv_shortcut = None

    def forward(self, x: Tensor, row: StepRow) -> Tensor:
        ops = self.ops
        hidden = self.conv1(ops.silu(ops.group_norm(x, self.norm1)), row)
        hidden = hidden + row[self.time_key][:, :, None, None]
        hidden = self.conv2(ops.silu(ops.group_norm(hidden, self.norm2)), row)
        return self._shortcut(x, row) + hidden

    def _shortcut(self, x: Tensor, row: StepRow) -> Tensor:
        if self.conv_shortcut is None:
            return x
        if not isinstance(self.conv_shortcut, nn.ModuleList):
            out: Tensor = self.conv_shortcut(x, row)
            return out
        of_state, of_skip = self.conv_shortcut
        state, skip = x.split(self.parts, dim=1)
        both: Tensor = of_state(state, row) + of_skip(skip, row)
        return both


def split_shortcuts(weights: Mapping[str, Tensor], structure: UNetStructure) -> dict[str, Tensor]:
    """A model's U-Net weights under the names of a structure, whose shortcuts may be split; parts share the model's memory."""
    found = dict(weights)
    for block in structure.up:
        for resnet in range(len(block.resnets)):
            parts = list(shortcut_specs(block, resnet, structure))
            if len(parts) < 2:
                continue
            whole = f"{block.name}.resnets.{resnet}.conv_shortcut"
            pieces = found.pop(f"{whole}.weight").split([part.in_channels for part in parts], dim=1)
            found |= {f"{part.name}.weight": piece for part, piece in zip(parts, pieces, strict=True)}
            found[f"{parts[0].name}.bias"] = found.pop(f"{whole}.bias")
    return found


class _Attention(nn.Module):
    def __init__(self, name: str, specs: dict[str, LayerSpec], heads: int, ops: GraphOperators[Any]) -> None:
        super().__init__()
        self.ops, self.heads = ops, heads
        self.to_q = ops.layer(specs[f"{name}.to_q"])
        self.to_k = ops.layer(specs[f"{name}.to_k"])
        self.to_v = ops.layer(specs[f"{name}.to_v"])
        self.to_out = nn.ModuleList([ops.layer(specs[f"{name}.to_out.0"])])

    def forward(self, x: Tensor, context: Tensor, row: StepRow) -> Tensor:
        q, k, v = self.to_q(x, row), self.to_k(context, row), self.to_v(context, row)
        return self.to_out[0](self.ops.attention(q, k, v, self.heads), row)


class _GatedProjection(nn.Module):
    """GEGLU: the first half of the projection times the GELU of the second half."""

    def __init__(self, name: str, specs: dict[str, LayerSpec], ops: GraphOperators[Any]) -> None:
        super().__init__()
        self.ops = ops
        self.proj = ops.layer(specs[f"{name}.proj"])

    def forward(self, x: Tensor, row: StepRow) -> Tensor:
        hidden, gate = self.ops.halves(self.proj(x, row))
        return hidden * self.ops.gelu(gate)


class _FeedForward(nn.Module):
    def __init__(self, name: str, specs: dict[str, LayerSpec], ops: GraphOperators[Any]) -> None:
        super().__init__()
        # Index 1 is diffusers' dropout, which has no parameters; it stays empty so that the names agree.
        gated = _GatedProjection(f"{name}.net.0", specs, ops)
        self.net = nn.ModuleList([gated, nn.Identity(), ops.layer(specs[f"{name}.net.2"])])

    def forward(self, x: Tensor, row: StepRow) -> Tensor:
        return self.net[2](self.net[0](x, row), row)


class _TransformerLayer(nn.Module):
    def __init__(
        self, name: str, specs: dict[str, LayerSpec], channels: int, block: BlockStructure, ops: GraphOperators[Any]
    ) -> None:
        super().__init__()
        self.ops, self.only_cross = ops, block.only_cross_attention
        heads = block.heads
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = _Attention(f"{name}.attn1", specs, heads, ops)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = _Attention(f"{name}.attn2", specs, heads, ops)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = _FeedForward(f"{name}.ff", specs, ops)

    def forward(self, x: Tensor, context: Tensor, row: StepRow) -> Tensor:
        normed = self.ops.layer_norm(x, self.norm1)
        x = x + self.attn1(normed, context if self.only_cross else normed, row)
        x = x + self.attn2(self.ops.layer_norm(x, self.norm2), context, row)
        return x + self.ff(self.ops.layer_norm(x, self.norm3), row)


class _Transformer(nn.Module):
    """Spatial transformer over the H*W positions of an image."""

    def __init__(
        self,
        name: str,
        specs: dict[str, LayerSpec],
        depth: int,
        block: BlockStructure,
        structure: UNetStructure,
        ops: GraphOperators[Any],
    ) -> None:
        super().__init__()
        self.ops, self.linear = ops, structure.linear_projection
        channels = specs[f"{name}.proj_in"].in_channels
        # diffusers fixes this epsilon in Transformer2DModel, whatever norm_eps is.
        self.norm = nn.GroupNorm(structure.groups, channels, 1e-6)
        self.proj_in = ops.layer(specs[f"{name}.proj_in"])
        self.transformer_blocks = nn.ModuleList(
            _TransformerLayer(f"{name}.transformer_blocks.{i}", specs, channels, block, ops) for i in range(depth)
        )
        self.proj_out = ops.layer(specs[f"{name}.proj_out"])

    def forward(self, x: Tensor, context: Tensor, row: StepRow) -> Tensor:
        height, width = x.shape[2], x.shape[3]
        hidden = self.ops.group_norm(x, self.norm)
        if not self.linear:
            hidden = self.proj_in(hidden, row)
        hidden = self.ops.tokens(hidden)
        if self.linear:
            hidden = self.proj_in(hidden, row)
        for block in self.transformer_blocks:
            hidden = block(hidden, context, row)
        if self.linear:
            hidden = self.proj_out(hidden, row)
        hidden = self.ops.picture(hidden, height, width)
        if not self.linear:
            hidden = self.proj_out(hidden, row)
        return hidden + x


class _Resample(nn.Module):
    """Strided convolution (down) or nearest upsampling and convolution (up)."""

    def __init__(self, spec: LayerSpec, down: bool, ops: GraphOperators[Any]) -> None:
        super().__init__()
        self.ops, self.down = ops, down
        self.pad = down and spec.padding == 0
        self.conv = ops.layer(spec)

    def forward(self, x: Tensor, row: StepRow) -> Tensor:
        if not self.down:
            x = self.ops.upsample(x)
        elif self.pad:
            x = nn.functional.pad(x, (0, 1, 0, 1))
        return self.conv(x, row)


@dataclass(frozen=True)
class Unit:
    """The smallest stretch of the graph that a program can begin or end with.

    Attributes:
        modules: what it runs, by name below the U-Net.
        run: called with (x, skips, context, row), returns x; ``skips`` grows on the way down and shrinks on the way up. The context
            are tokens as the operators lay them (:meth:`GraphOperators.text`).
        uses_context: whether it looks at the text.
    """

    modules: Mapping[str, nn.Module]
    run: Callable[[Tensor, list[Tensor], Tensor, StepRow], Tensor]
    uses_context: bool

    def __call__(self, x: Tensor, skips: list[Tensor], context: Tensor, row: StepRow) -> Tensor:
        return self.run(x, skips, context, row)


class _Block(nn.Module):
    """A down, mid or up block; ``kind`` decides what happens to the skip list."""

    downsamplers: nn.ModuleList
    upsamplers: nn.ModuleList

    def __init__(self, block: BlockStructure, structure: UNetStructure, ops: GraphOperators[Any]) -> None:
        super().__init__()
        self.name, self.kind = block.name, block.name.split("_")[0]
        specs = {spec.name: spec for spec in block_specs(block, structure)}
        self.resnets = nn.ModuleList(
            _Resnet(f"{block.name}.resnets.{j}", specs, block.input_parts(j), structure, ops) for j in range(len(block.resnets))
        )
        self.attentions = nn.ModuleList(
            _Transformer(f"{block.name}.attentions.{j}", specs, depth, block, structure, ops)
            for j, depth in enumerate(block.attention_layers)
        )
        if block.resample:
            name = "downsamplers" if self.kind == "down" else "upsamplers"
            resample = _Resample(specs[f"{block.name}.{name}.0.conv"], self.kind == "down", ops)
            self.add_module(name, nn.ModuleList([resample]))

    def forward(self, x: Tensor, skips: list[Tensor], context: Tensor, row: StepRow) -> Tensor:
        """``skips`` grows in a down block and shrinks in an up block, in place."""
        for unit in self.units():
            x = unit(x, skips, context, row)
        return x

    def units(self) -> list[Unit]:
        """Its resnets, each with its attention, and its resampler."""
        return [self._resnet_unit(j) for j in range(len(self.resnets))] + self._resample_units()

    def _resnet_unit(self, j: int) -> Unit:
        modules = {f"{self.name}.resnets.{j}": self.resnets[j]}
        if j < len(self.attentions):
            modules[f"{self.name}.attentions.{j}"] = self.attentions[j]

        def run(x: Tensor, skips: list[Tensor], context: Tensor, row: StepRow) -> Tensor:
            if self.kind == "up":
                x = torch.cat([x, skips.pop()], dim=1)
            x = self.resnets[j](x, row)
            if j < len(self.attentions):
                x = self.attentions[j](x, context, row)
            if self.kind == "down":
                skips.append(x)
            return x

        return Unit(modules, run, uses_context=j < len(self.attentions))

    def _resample_units(self) -> list[Unit]:
        name = "downsamplers" if self.kind == "down" else "upsamplers"
        if not hasattr(self, name):
            return []
        resample = getattr(self, name)[0]

        def run(x: Tensor, skips: list[Tensor], context: Tensor, row: StepRow) -> Tensor:
            x = resample(x, row)
            if self.kind == "down":
                skips.append(x)
            return x

        return [Unit({f"{self.name}.{name}.0": resample}, run, uses_context=False)]


class StepUNet(nn.Module):
    """U-Net that takes the call index instead of a timestep."""

    def __init__(self, structure: UNetStructure, tables: nn.Module, ops: GraphOperators[Any]) -> None:
        """
        Args:
            structure: from :meth:`UNetStructure.from_config`.
            tables: called with the step [S] (and what the prompt brings, if it brings anything), gives a :data:`StepRow`.
            ops: makes the layers and the other operators.
        """
        super().__init__()
        self.structure, self.ops, self.tables = structure, ops, tables
        specs = layer_specs(structure)
        self.conv_in = ops.layer(specs[0])
        self.down_blocks = nn.ModuleList(_Block(block, structure, ops) for block in structure.down)
        self.mid_block = _Block(structure.mid, structure, ops) if structure.mid else None
        self.up_blocks = nn.ModuleList(_Block(block, structure, ops) for block in structure.up)
        self.conv_norm_out = nn.GroupNorm(structure.groups, structure.channels[0], structure.eps)
        self.conv_out = ops.layer(specs[-1])

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.conv_norm_out.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of states; weights of layers may rest in a narrower one."""
        return self.conv_norm_out.weight.dtype

    def forward(self, sample: Tensor, step: Tensor, encoder_hidden_states: Tensor, of_prompt: Tensor | None = None) -> Tensor:
        """
        Args:
            sample: scaled state, float [B, C, H, W].
            step: call index, integer [1] or [B].
            encoder_hidden_states: text embedding, float [B, N, D].
            of_prompt: what the tables of a structure with ``text_time`` take: the prompt's time table [B, T, K]
                (:class:`GivenRows`) or its pooled text [B, P] (:class:`NetworkRows`); otherwise None.

        Returns:
            Model output, float [B, C, H, W].
        """
        return self.with_features(sample, step, encoder_hidden_states, of_prompt)[0]

    def with_features(
        self, sample: Tensor, step: Tensor, encoder_hidden_states: Tensor, of_prompt: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As :meth:`forward`, and the output of every down, mid and up block by name."""
        row = self.row(step) if of_prompt is None else self.row(step, of_prompt)
        context = self.ops.text(encoder_hidden_states)
        x = self.conv_in(sample, row)
        skips = [x]
        features: dict[str, Tensor] = {}
        for name, block in self.named_blocks():
            x = block(x, skips, context, row)
            features[name] = x
        return self._out(x, row), features

    def row(self, step: Tensor, *of_prompt: Tensor) -> StepRow:
        """What the graph looks up for call indices [S].

        Args:
            of_prompt: the conditions behind the first one, which is for the blocks; see :meth:`forward`.
        """
        row: StepRow = self.tables(step, *of_prompt)
        return row

    def units(self) -> list[Unit]:
        """The whole graph as stretches between two possible cuts, in the order in which they run."""

        def begin(x: Tensor, skips: list[Tensor], context: Tensor, row: StepRow) -> Tensor:
            x = self.conv_in(x, row)
            skips.append(x)
            return x

        def end(x: Tensor, skips: list[Tensor], context: Tensor, row: StepRow) -> Tensor:
            return self._out(x, row)

        inner = [unit for _, block in self.named_blocks() for unit in block.units()]  # type: ignore[operator]
        first = Unit({"conv_in": self.conv_in}, begin, uses_context=False)
        last = Unit({"conv_norm_out": self.conv_norm_out, "conv_out": self.conv_out}, end, uses_context=False)
        return [first, *inner, last]

    def _out(self, x: Tensor, row: StepRow) -> Tensor:
        out: Tensor = self.conv_out(self.ops.silu(self.ops.group_norm(x, self.conv_norm_out)), row)
        return out

    def named_blocks(self) -> list[tuple[str, nn.Module]]:
        """Blocks in the order in which they run."""
        blocks = [(f"down_blocks.{i}", block) for i, block in enumerate(self.down_blocks)]
        if self.mid_block is not None:
            blocks.append(("mid_block", self.mid_block))
        return blocks + [(f"up_blocks.{i}", block) for i, block in enumerate(self.up_blocks)]
