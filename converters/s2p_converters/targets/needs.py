"""Memory and disk that a conversion takes, foreseen from its checkpoint."""

from __future__ import annotations

from pathlib import Path

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.graph import UNetStructure
from s2p_converters.core.resources import parameter_count, require_disk, require_memory

_LIBRARIES = 700 << 20
"""torch and coremltools or executorch."""
_FLOAT16, _FLOAT32, _FLOAT64 = 2, 4, 8
# Measured with benchmarks/full_size.py, networks of 138M to 2.57B parameters: peaks lie 0 to 25% below what these give.
_COREML_PER_WEIGHT = 1.5
"""Bytes of memory for each weight: the file that is written and read back, and the checkpoint's own pages."""
_EXECUTORCH_COPIES = 6
"""Copies of the program: its weights packed for XNNPACK, the lowered graph and the serializer's buffers."""
_CHECK_PER_WEIGHT = 3
"""The same while the interpreter runs the program once (SDXL at small latents: 7.6 GiB)."""


def conversion_memory(checkpoint: Checkpoint, target: str) -> int:
    """Peak memory in bytes of converting the U-Net and of running it once beside its reference."""
    weights = sum(spec.weights for spec in checkpoint.specs)
    if target == "executorch":
        return _LIBRARIES + _EXECUTORCH_COPIES * _program_bytes(checkpoint)
    # The interpreter holds the scores of one attention and their softmax at once.
    check = _CHECK_PER_WEIGHT * weights + 2 * _FLOAT64 * _largest_scores(
        checkpoint.structure, 2 if checkpoint.manifest.guidance > 1 else 1
    )
    return _LIBRARIES + max(round(_COREML_PER_WEIGHT * weights), check)


def conversion_disk(checkpoint: Checkpoint, target: str) -> int:
    """Bytes of the bundle at most, golden runs aside."""
    floats = sum(parameter_count(folder) for folder in checkpoint.folder.glob("text_encoder*"))
    decoder = _FLOAT32 * parameter_count(checkpoint.folder / "vae")
    others = sum(value.size for value in (*checkpoint.floats.values(), *checkpoint.time_network.values()))
    if target == "executorch":
        return _program_bytes(checkpoint) + _FLOAT32 * (floats + others) + decoder
    stored = sum(
        spec.weights * (layer.weight_bits if (layer := checkpoint.layers.get(spec.name)) else 0) for spec in checkpoint.specs
    )
    return stored // 8 + _FLOAT32 * (floats + others) + decoder


def require_conversion(checkpoint: Checkpoint, target: str, out: Path) -> None:
    """Raise :class:`S2PError` when a conversion would run out of memory or disk."""
    require_memory(conversion_memory(checkpoint, target), f"converting {checkpoint.manifest.source.name}")
    require_disk(out, conversion_disk(checkpoint, target), "the bundle", "free some, or give another `out`")


def _program_bytes(checkpoint: Checkpoint) -> int:
    """Weights as XNNPACK takes them: linear layers of up to 4 bits packed in pairs, everything else a byte each."""
    halves = sum(
        spec.weights // 2
        for spec in checkpoint.specs
        if spec.kind == "linear" and (layer := checkpoint.layers.get(spec.name)) and layer.weight_bits <= 4
    )
    return sum(spec.weights for spec in checkpoint.specs) - halves


def _largest_scores(structure: UNetStructure, samples: int) -> int:
    """Elements of the attention weights of the largest attention of the picture to itself."""
    height, width = structure.sample_size
    largest = 0
    for block in structure.down:
        if block.attention_layers:
            largest = max(largest, samples * block.heads * (height * width) ** 2)
        height, width = (height + 1) // 2, (width + 1) // 2
    return largest
