"""MIL blob storage: the ``weight.bin`` beside a Core ML model.

Layout, little-endian: a 64-byte file header (uint32 blob count, uint32 version 2, reserved); then, 64-byte aligned, one
64-byte metadata record per blob (uint32 sentinel 0xDEADBEEF, uint32 data type, uint64 bytes, uint64 file offset of the data,
uint64 padding bits at the end of sub-byte data, reserved). A program refers to a blob by its metadata's offset.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.coreml.mil.types import ElementType, unpack_bits

_HEADER_BYTES = 64
_METADATA = struct.Struct("<IIQQQ")
_METADATA_BYTES = 64
_SENTINEL = 0xDEADBEEF
_VERSION = 2

# Numbers of MILBlob::Blob::BlobDataType.
_BLOB_TYPES = {
    1: "fp16",
    2: "fp32",
    3: "uint8",
    4: "int8",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
}


class BlobFile:
    """A memory-mapped blob file.

    Raises:
        S2PError: the file is missing, too short, or of another version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            size = path.stat().st_size
            if size < _HEADER_BYTES:
                raise self._damaged("it is shorter than its header")
            self._bytes: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
        except OSError as error:
            raise S2PError(f"cannot read {path}: {error.strerror}", "convert or copy the package again") from error
        version = int.from_bytes(self._bytes[4:8].tobytes(), "little")
        if version != _VERSION:
            raise self._damaged(f"its version is {version}, not {_VERSION}")

    def _damaged(self, reason: str) -> S2PError:
        return S2PError(f"{self._path} is damaged: {reason}", "convert or copy the package again")

    def read(self, offset: int, element: ElementType, count: int) -> NDArray[Any]:
        """The blob whose metadata starts at ``offset``.

        Returns:
            [count] in ``element.holder``; a read-only view of the file unless the elements are narrower than a byte.

        Raises:
            S2PError: anything outside the file, or metadata that contradicts ``element`` and ``count``.
        """
        size = len(self._bytes)
        if offset < _HEADER_BYTES or offset + _METADATA_BYTES > size:
            raise self._damaged(f"a weight's record at byte {offset} is outside its {size} bytes")
        sentinel, number, length, start, padding = _METADATA.unpack_from(
            self._bytes[offset : offset + _METADATA_BYTES].tobytes()
        )
        if sentinel != _SENTINEL:
            raise self._damaged(f"no weight record at byte {offset}")
        stored = _BLOB_TYPES.get(number, f"type {number}")
        if stored != element.name:
            raise self._damaged(f"the record at byte {offset} holds {stored}, the program declares {element.name}")
        expected = (count * element.bits + 7) // 8
        if length != expected or length * 8 - padding != count * element.bits:
            raise self._damaged(f"the record at byte {offset} holds {length} bytes, the program declares {expected}")
        if start < offset + _METADATA_BYTES or start + length > size:
            raise self._damaged(f"the data of the record at byte {offset} is outside its {size} bytes")
        data = self._bytes[start : start + length]
        return unpack_bits(np.asarray(data), element, count) if element.bits < 8 else data.view(element.holder)
