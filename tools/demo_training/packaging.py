"""The checkpoint that is shipped with the demo model."""

from __future__ import annotations

import shutil
from pathlib import Path

from s2p_mobile.sources.model import Model


def package_checkpoint(checkpoint: Path, model: Path) -> Path:
    """Put a whole checkpoint into its model's folder, where ``s2p_defaults.json`` names it; the model's own components are left out.

    Returns:
        Its folder.
    """
    opened = Model(model)
    destination = opened.defaults.checkpoint
    if destination is None:
        raise ValueError(f"s2p_defaults.json of {model} names no checkpoint")
    own = set(opened.family.folders)
    shutil.rmtree(destination, ignore_errors=True)
    shutil.copytree(checkpoint, destination, ignore=lambda at, names: own if Path(at) == checkpoint else set())
    return destination
