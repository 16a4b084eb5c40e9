"""FP picture, quantized picture and their difference, one row a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.pictures import save_picture

DIFFERENCE_GAIN = 4
_GAP = 2


def picture_grid(rows: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """Rows of (FP, quantized) pictures [H, W, 3] -> one uint8 picture with a third column: 4 |difference|, clipped at 255."""
    lines = []
    for reference, picture in rows:
        difference = np.abs(picture.astype(np.int16) - reference.astype(np.int16)) * DIFFERENCE_GAIN
        cells = (reference, picture, np.minimum(difference, 255).astype(np.uint8))
        lines.append(np.concatenate([np.pad(cell, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255) for cell in cells], 1))
    return np.concatenate(lines)[:-_GAP, :-_GAP]


def save_grid(path: Path, rows: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> None:
    """Write the grid as a PNG, whole or not at all."""
    save_picture(path, picture_grid(rows))
