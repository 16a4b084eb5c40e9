"""Layers of a U-Net under the names of the original code (CompVis/stable-diffusion, Stability-AI/generative-models)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_WHOLE = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


def original_unet_names(names: Iterable[str]) -> dict[str, str]:
    """diffusers' name of a layer -> the original one; layers that the original code does not have are left out.

    The original code counts all steps of the way down, and of the way up, in one row: a step is a resnet with its attention, or a
    downsampler; an upsampler belongs to the last step of its block. How many steps a block has is read from the names themselves.
    """
    layers = list(names)
    steps = _steps(layers)
    found = {name: original for name in layers if (original := _WHOLE.get(name) or _middle(name) or _block(name, steps))}
    return found


class _Steps:
    """Where the blocks of a U-Net lie in the original code's two rows."""

    def __init__(self, resnets: Counter[tuple[str, int]], others: set[tuple[str, int, str]]) -> None:
        self.resnets, self.others = resnets, others

    def before(self, side: str, block: int) -> int:
        """Steps of the row before a block. The way down begins with the first convolution."""
        downsamplers = sum((side, i, "downsamplers") in self.others for i in range(block))
        return (side == "down") + sum(self.resnets[side, i] for i in range(block)) + downsamplers


def _steps(names: list[str]) -> _Steps:
    places = {match.group(1, 2, 3, 4) for name in names if (match := _BLOCK.fullmatch(name))}
    resnets = Counter((side, int(block)) for side, block, kind, _ in places if kind == "resnets")
    return _Steps(resnets, {(side, int(block), kind) for side, block, kind, _ in places})


def _inside(kind: str, rest: str) -> str | None:
    return _RESNET.get(rest) if kind == "resnets" else rest


def _middle(name: str) -> str | None:
    match = _MIDDLE.fullmatch(name)
    if not match or (rest := _inside(match[1], match[3])) is None:
        return None
    return f"middle_block.{2 * int(match[2]) + (match[1] == 'attentions')}.{rest}"


def _block(name: str, steps: _Steps) -> str | None:
    match = _BLOCK.fullmatch(name)
    if not match or (rest := _inside(match[3], match[5])) is None:
        return None
    side, block, kind = match[1], int(match[2]), match[3]
    row, step = ("input_blocks" if side == "down" else "output_blocks"), steps.before(side, block)
    if kind == "downsamplers":
        return f"{row}.{step + steps.resnets[side, block]}.0.op" if rest == "conv" else None
    if kind == "upsamplers":
        place = 2 if (side, block, "attentions") in steps.others else 1
        return f"{row}.{step + steps.resnets[side, block] - 1}.{place}.{rest}"
    return f"{row}.{step + int(match[4])}.{int(kind == 'attentions')}.{rest}"
