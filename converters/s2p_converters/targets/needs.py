"""Memory and disk that a conversion takes, foreseen from its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.resources import parameter_count, require_disk, require_memory
from s2p_converters.targets.options import TargetOptions
from s2p_converters.targets.protocol import Target

LIBRARIES = 700 << 20
"""Memory of torch and a target's converter, bytes."""
_FLOAT32 = 4


def float_bytes(checkpoint: Checkpoint) -> int:
    """Bytes in float32 of everything in a bundle that is no layer of the U-Net: text encoders, decoder, norms, the network of a
    prompt's time table."""
    folders = (*checkpoint.folder.glob("text_encoder*"), checkpoint.folder / "vae")
    others = sum(value.size for value in (*checkpoint.floats.values(), *checkpoint.time_network.values()))
    return _FLOAT32 * (sum(parameter_count(folder) for folder in folders) + others)


def require_conversion(checkpoint: Checkpoint, target: Target[Any], options: TargetOptions, out: Path) -> None:
    """Raise :class:`S2PError` when a conversion would run out of memory or disk."""
    require_memory(target.memory(checkpoint, options), f"converting {checkpoint.manifest.source.name}")
    require_disk(out, target.disk(checkpoint, options), "the bundle", "free some, or give another `out`")
