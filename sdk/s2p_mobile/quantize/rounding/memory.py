"""How many samples can wait at the entrance of a network's parts."""

from __future__ import annotations

from collections.abc import Sequence

from s2p_converters.core.graph import LayerSpec
from s2p_converters.core.graph.structure import UNetStructure

MEMORY_BYTES = 4 * 2**30
"""What the samples of a reconstruction take at most, all walks together."""


def sample_bytes(structure: UNetStructure) -> int:
    """Bytes of one sample while two graphs walk, see :func:`waiting_bytes`."""
    return 2 * waiting_bytes(structure)


def waiting_bytes(structure: UNetStructure) -> int:
    """Bytes of one sample in a graph: its state and skips before the middle, where most wait, and inputs and outputs of the largest
    resnet, float32."""
    height, width = structure.sample_size
    waiting, largest = structure.down[0].resnets[0][0] * height * width, 0
    for block in (*structure.down, *([structure.mid] if structure.mid else []), *structure.up):
        down, up = (block.resample and block.name.startswith(way) for way in ("down", "up"))
        for inputs, outputs in block.resnets:
            largest = max(largest, (inputs + outputs) * height * width)
            waiting += outputs * height * width if block in structure.down else 0
        if down:
            height, width = (height + 1) // 2, (width + 1) // 2
            waiting += block.resnets[-1][1] * height * width
        if up:
            height, width = height * 2, width * 2
    return 4 * (waiting + largest)


def samples_that_fit(structure: UNetStructure, wanted: int) -> int:
    """``wanted``, or as many as ``MEMORY_BYTES`` hold; at least 8."""
    return min(wanted, max(8, MEMORY_BYTES // sample_bytes(structure)))


def reconstruction_bytes(structure: UNetStructure, layers: Sequence[LayerSpec], samples: int) -> int:
    """Memory of learned rounding.

    Args:
        layers: that are rounded.
        samples: wanted.
    """
    # Of every weight the integer below, what is missing to it, and the way it goes.
    weights = sum((2 * 4 + 1) * layer.weights for layer in layers)
    return weights + samples_that_fit(structure, samples) * sample_bytes(structure)
