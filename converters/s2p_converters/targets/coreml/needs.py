"""Memory and disk that a conversion to Core ML takes."""

from __future__ import annotations

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.needs import LIBRARIES, float_bytes

# Measured with benchmarks/full_size.py, networks of 142M to 2.57B parameters: peaks lie 6 to 31% below what these give, SDXL's at
# small latents, where activations are small too, further.
_BYTES_PER_WEIGHT = 1.5
"""Memory for each weight: the file that is written and read back, and the checkpoint's own pages."""
_CHECK_PER_WEIGHT = 3
"""The same while the interpreter runs the program once (SD v1-4: 2.1 GiB; SDXL at small latents: 3.3 GiB)."""


def peak_memory(checkpoint: Checkpoint) -> int:
    """Bytes for converting the U-Net and running it once beside its reference."""
    weights = sum(spec.weights for spec in checkpoint.specs)
    return LIBRARIES + max(round(_BYTES_PER_WEIGHT * weights), _CHECK_PER_WEIGHT * weights)


def bundle_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the bundle at most, golden runs aside."""
    stored = sum(
        spec.weights * (layer.weight_bits if (layer := checkpoint.layers.get(spec.name)) else 0) for spec in checkpoint.specs
    )
    return stored // 8 + float_bytes(checkpoint)
