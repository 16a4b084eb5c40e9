"""What a path holds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from s2p_converters.core.checkpoint import is_checkpoint
from s2p_mobile.sources.model import DEMO_NAME
from s2p_runtime.bundle import MANIFEST_NAME

SourceKind = Literal["model", "checkpoint", "bundle"]


def source_kind(source: str | Path | None) -> SourceKind:
    """Whether a source is a checkpoint, a bundle, or neither of them and so a model (None or ``demo``: the demo model)."""
    if source is None or str(source) == DEMO_NAME:
        return "model"
    if is_checkpoint(Path(source)):
        return "checkpoint"
    return "bundle" if (Path(source) / MANIFEST_NAME).is_file() else "model"
