"""Named arrays in a safetensors file, the same bytes for the same arrays."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load

from s2p_runtime.errors import S2PError

Array = NDArray[Any]

_DTYPES = {
    np.dtype(kind).newbyteorder("<"): name
    for kind, name in (
        ("u8", "U64"), ("i8", "I64"), ("f8", "F64"), ("f4", "F32"), ("u4", "U32"), ("i4", "I32"), ("f2", "F16"), ("u2", "U16"),
        ("i2", "I16"), ("i1", "I8"), ("u1", "U8"), ("?", "BOOL"),
    )
}  # fmt: skip
"""Names of the dtypes, in the order in which safetensors' own writer puts tensors: wide ones first, so that all are aligned."""
_RANKS = {dtype: rank for rank, dtype in enumerate(_DTYPES)}


def read_tensors(path: Path) -> dict[str, Array]:
    """All tensors of a safetensors file, by name in sorted order. Arrays own their memory and can be written to.

    Raises:
        S2PError: the file is missing, unreadable, truncated or not a safetensors file, or holds a dtype that numpy lacks.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise S2PError(f"{path} does not exist", f"is {path.parent} complete?") from None
    except OSError as error:
        raise S2PError(f"cannot read {path} ({error.strerror or error})", "check the path and its permissions") from error
    try:
        tensors = load(content)
    except _DAMAGE as error:
        raise _incomplete(path, error) from error
    return {name: np.array(tensors[name], order="C") for name in sorted(tensors)}


_DAMAGE = (SafetensorError, KeyError, TypeError, ValueError)


def _incomplete(path: Path, error: Exception) -> S2PError:
    reason = " ".join(str(error).split())
    return S2PError(f"{path} is not a complete safetensors file ({reason})", "get it from its author again")


class TensorFile(Mapping[str, Array]):
    """A safetensors file whose tensors are read when they are asked for, each time anew, as arrays that own their memory.

    Names come in sorted order.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            S2PError: as :func:`read_tensors`; a damaged tensor or an unknown dtype when it is read.
        """
        self._path = path
        try:
            opened: Any = safe_open(path, framework="numpy")
        except FileNotFoundError:
            raise S2PError(f"{path} does not exist", f"is {path.parent} complete?") from None
        except OSError as error:
            raise S2PError(f"cannot read {path} ({error.strerror or error})", "check the path and its permissions") from error
        except _DAMAGE as error:
            raise _incomplete(path, error) from error
        # A field of type Any: only some releases of safetensors have types.
        self._file: Any = opened
        self._names: dict[str, None] = dict.fromkeys(sorted(opened.keys()))

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        try:
            value: Array = self._file.get_tensor(name)
        except _DAMAGE as error:
            raise _incomplete(self._path, error) from error
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


def write_tensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write arrays to a safetensors file. Equal names, dtypes, shapes and values give equal bytes, in whatever order.

    Args:
        path: is overwritten. Write below :func:`s2p_runtime.files.atomic_folder` so that a failure leaves nothing behind.
        tensors: name -> array of bool, an integer or a floating dtype; need not be contiguous or little-endian.

    Raises:
        S2PError: a dtype that safetensors cannot hold.
        OSError: the file cannot be written (``errno.ENOSPC`` when there is no space left).
    """
    arrays = {name: np.asarray(tensors[name]) for name in sorted(tensors)}
    dtypes = {name: array.dtype.newbyteorder("<") for name, array in arrays.items()}
    for name, dtype in dtypes.items():
        if dtype not in _DTYPES:
            raise S2PError(
                f"tensor {name!r} has dtype {arrays[name].dtype}, which {path.name} cannot hold",
                "use an integer or a float dtype",
            )
    order = sorted(arrays, key=lambda name: (_RANKS[dtypes[name]], name))
    header, offset = {}, 0
    for name in order:
        end = offset + arrays[name].nbytes
        header[name] = {"dtype": _DTYPES[dtypes[name]], "shape": list(arrays[name].shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    # Tensor by tensor: a network is never in memory twice.
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(np.ascontiguousarray(arrays[name], dtypes[name]).data)
