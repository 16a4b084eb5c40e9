"""Decoder outputs as pictures, and how far two arrays are apart."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s2p_runtime.files import atomic_file


def to_picture(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Decoder output [1, 3, H, W] in [-1, 1] -> 8-bit RGB [H, W, 3], rounded half to even."""
    unit = np.clip(image[0].astype(np.float32) / 2 + np.float32(0.5), 0, 1)
    picture: NDArray[np.uint8] = np.rint(unit * 255).astype(np.uint8).transpose(1, 2, 0)
    return picture


def save_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a PNG, whole or not at all."""
    with atomic_file(path) as scratch:
        Image.fromarray(picture).save(scratch, format="PNG")


def psnr_db(value: NDArray[Any], reference: NDArray[Any], peak: float | None = None) -> float | None:
    """``10 log10(peak^2 / mean squared error)`` in dB; None when the arrays are equal.

    Args:
        peak: the signal's range; the reference's max - min when left out.
    """
    error = float(np.mean(np.square(value.astype(np.float64) - reference.astype(np.float64))))
    if error == 0.0:
        return None
    span = float(reference.max()) - float(reference.min()) if peak is None else peak
    return 10 * math.log10(span * span / error) if span > 0 else -math.inf


def relative_error(value: NDArray[Any], reference: NDArray[Any]) -> float:
    """Euclidean norm of the difference over the norm of the reference, in double; infinite when ``value`` is not finite."""
    difference = float(np.linalg.norm((value.astype(np.float64) - reference.astype(np.float64)).ravel()))
    norm = float(np.linalg.norm(reference.astype(np.float64).ravel()))
    return difference / norm if math.isfinite(difference) and norm > 0 else (0.0 if difference == 0 else math.inf)
