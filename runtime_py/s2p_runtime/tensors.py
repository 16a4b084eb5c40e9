"""Named arrays in a safetensors file, the same bytes for the same arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from s2p_runtime.errors import S2PError

Array = NDArray[Any]


def read_tensors(path: Path) -> dict[str, Array]:
    """All tensors of a safetensors file, by name in sorted order. Arrays own their memory and can be written to.

    Raises:
        S2PError: the file is missing, unreadable, truncated or not a safetensors file, or holds a dtype that numpy lacks.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise S2PError(f"{path} does not exist; is {path.parent} complete?") from None
    except OSError as error:
        raise S2PError(f"cannot read {path} ({error.strerror or error}); check the path and its permissions") from error
    try:
        tensors = load(content)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise S2PError(f"{path} is not a complete safetensors file ({reason}); get it from its author again") from error
    return {name: np.array(tensors[name], order="C") for name in sorted(tensors)}


def write_tensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write arrays to a safetensors file. Equal names, dtypes, shapes and values give equal bytes, in whatever order.

    Args:
        path: is overwritten. Write below :func:`s2p_runtime.files.atomic_folder` so that a failure leaves nothing behind.
        tensors: name -> array of bool, an integer or a floating dtype; need not be contiguous or little-endian.

    Raises:
        S2PError: a dtype that safetensors cannot hold.
        OSError: the file cannot be written (``errno.ENOSPC`` when there is no space left).
    """
    ordered: dict[str, Array] = {}
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise S2PError(
                f"tensor {name!r} has dtype {array.dtype}, which {path.name} cannot hold; use an integer or a float dtype"
            )
        # safetensors writes an array's memory as it lies, in whatever layout, but under the name of a C-ordered one.
        ordered[name] = np.array(array, order="C")
    # Not save_file: that reports a full disk as a SafetensorError without an errno.
    path.write_bytes(save(ordered))
