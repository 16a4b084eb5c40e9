"""Integers in a checkpoint: 4 bits two to a byte, everything wider one to a byte."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def integer_range(bits: int) -> tuple[int, int]:
    """Smallest and largest integer of a signed ``bits``-bit grid, e.g. (-8, 7)."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def packs(bits: int) -> bool:
    """Whether integers of this width rest two to a byte."""
    return bits <= 4


def pack_nibbles(values: NDArray[np.int8]) -> NDArray[np.uint8]:
    """int8 array of any shape with values in [-8, 7] -> uint8 [ceil(n / 2)], C order, first value in the low nibble."""
    flat = values.reshape(-1).astype(np.uint8) & np.uint8(0x0F)
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return (flat[0::2] | (flat[1::2] << np.uint8(4))).astype(np.uint8)


def unpack_nibbles(packed: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.int8]:
    """Inverse of :func:`pack_nibbles`.

    Raises:
        ValueError: the number of bytes does not belong to ``shape``.
    """
    count = int(np.prod(shape))
    if packed.ndim != 1 or packed.size != (count + 1) // 2:
        raise ValueError(f"{packed.size} bytes do not hold {count} 4-bit integers")
    flat = np.empty(packed.size * 2, np.int8)
    flat[0::2] = (packed << np.uint8(4)).astype(np.int8) >> 4
    flat[1::2] = packed.astype(np.int8) >> 4
    return flat[:count].reshape(shape)
