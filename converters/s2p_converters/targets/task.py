"""What is asked of a target in a conversion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.options import TargetOptions
from s2p_converters.targets.protocol import LatentShapes, Target


@dataclass(frozen=True)
class Task:
    """Programs to write.

    Attributes:
        folder: of the bundle.
        shapes: latent height and width by method, the own size first.
        kept: see :mod:`s2p_converters.targets.kept_programs`.
    """

    checkpoint: Checkpoint
    target: Target[Any]
    options: TargetOptions
    folder: Path
    shapes: LatentShapes
    kept: Path | None
