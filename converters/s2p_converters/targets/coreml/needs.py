"""Memory and disk that a conversion to Core ML takes."""

from __future__ import annotations

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.graph import UNetStructure
from s2p_converters.targets.needs import LIBRARIES, float_bytes
from s2p_converters.targets.ports import branches

# Measured with benchmarks/full_size.py, networks of 138M to 2.57B parameters: peaks lie 0 to 25% below what these give.
_BYTES_PER_WEIGHT = 1.5
"""Memory for each weight: the file that is written and read back, and the checkpoint's own pages."""
_CHECK_PER_WEIGHT = 3
"""The same while the interpreter runs the program once (SDXL at small latents: 7.6 GiB)."""
_FLOAT64 = 8


def peak_memory(checkpoint: Checkpoint) -> int:
    """Bytes for converting the U-Net and running it once beside its reference."""
    weights = sum(spec.weights for spec in checkpoint.specs)
    # The interpreter holds the scores of one attention and their softmax at once.
    scores = 2 * _FLOAT64 * largest_scores(checkpoint.structure, branches(checkpoint))
    return LIBRARIES + max(round(_BYTES_PER_WEIGHT * weights), _CHECK_PER_WEIGHT * weights + scores)


def bundle_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the bundle at most, golden runs aside."""
    stored = sum(
        spec.weights * (layer.weight_bits if (layer := checkpoint.layers.get(spec.name)) else 0) for spec in checkpoint.specs
    )
    return stored // 8 + float_bytes(checkpoint)


def largest_scores(structure: UNetStructure, samples: int) -> int:
    """Elements of the attention weights of the largest attention of the picture to itself."""
    height, width = structure.sample_size
    largest = 0
    for block in structure.down:
        if block.attention_layers:
            largest = max(largest, samples * block.heads * (height * width) ** 2)
        height, width = (height + 1) // 2, (width + 1) // 2
    return largest
