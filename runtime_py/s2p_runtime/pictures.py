"""Decoder outputs as pictures, and how far two arrays are apart."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from s2p_runtime.errors import S2PError
from s2p_runtime.files import atomic_file


def to_picture(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Decoder output [1, 3, H, W] in [-1, 1] -> 8-bit RGB [H, W, 3], rounded half to even."""
    unit = np.clip(image[0].astype(np.float32) / 2 + np.float32(0.5), 0, 1)
    picture: NDArray[np.uint8] = np.rint(unit * 255).astype(np.uint8).transpose(1, 2, 0)
    return picture


def from_picture(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """8-bit RGB [H, W, 3] -> what a VAE encoder takes, float32 [1, 3, H, W] in [-1, 1]: ``byte * 2 / 255 - 1`` in double, rounded
    once."""
    scaled = picture.astype(np.float64) * 2 / 255 - 1
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None].astype(np.float32))


def fitted_picture(picture: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    """A picture as 8-bit RGB [height, width, 3]: scaled until it covers the size, and what stands over cut off on both sides alike.

    Transparent parts become white, and a camera's note on how it was held is followed.
    """
    upright = ImageOps.exif_transpose(picture)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    fitted = ImageOps.fit(upright.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
    return np.asarray(fitted, np.uint8)


def read_picture(path: Path) -> Image.Image:
    """Open a picture file of any kind that Pillow reads.

    Raises:
        S2PError: missing, or no picture.
    """
    try:
        picture = Image.open(path)
        picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "it does not exist" if not path.exists() else " ".join(str(error).split()) or type(error).__name__
        raise S2PError(f"{path} is no picture that can be read ({reason})", "give a PNG or JPEG file", "image") from error
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
