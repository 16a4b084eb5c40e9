"""Memory and disk that a conversion to Core AI takes."""

from __future__ import annotations

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.needs import LIBRARIES, float_bytes

_BYTES_PER_WEIGHT = 3
"""Memory for each weight: the constants, the file that is written, and the program that runs once."""


def peak_memory(checkpoint: Checkpoint) -> int:
    """Bytes for converting the U-Net and running it once beside its reference, in two processes."""
    return 2 * LIBRARIES + _BYTES_PER_WEIGHT * sum(spec.weights for spec in checkpoint.specs)


def bundle_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the bundle at most, golden runs aside."""
    stored = sum(
        spec.weights * (layer.weight_bits if (layer := checkpoint.layers.get(spec.name)) else 32) for spec in checkpoint.specs
    )
    return stored // 8 + float_bytes(checkpoint)
