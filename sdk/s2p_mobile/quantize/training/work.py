"""The folder beside a checkpoint in which its training keeps state, latents, log and loss plot."""

from __future__ import annotations

import shutil
from pathlib import Path

from s2p_mobile.quantize.training.state import STATE_NAME

TRAINED_METHODS = ("s2p",)
ROUNDING_FOLDER = "rounding"
"""Finished parts of the weights that training starts from."""


def training_folder(checkpoint: Path) -> Path:
    """``OUT.training`` for the checkpoint ``OUT``."""
    return checkpoint.parent / f"{checkpoint.name}.training"


def forget_state(folder: Path) -> None:
    """Drop what only an unfinished training needs; log and plot stay."""
    (folder / STATE_NAME).unlink(missing_ok=True)
    for name in ("latents", ROUNDING_FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)
