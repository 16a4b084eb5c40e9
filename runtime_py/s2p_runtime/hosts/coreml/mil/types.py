"""Element and tensor types of MIL programs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.errors import S2PError

Kind = Literal["float", "int", "bool", "string"]


@dataclass(frozen=True)
class ElementType:
    """An element type; ``holder`` is the narrowest NumPy dtype that holds its values (int8 for int4, uint8 for uint3)."""

    name: str
    kind: Kind
    bits: int
    holder: np.dtype[Any]

    @property
    def signed(self) -> bool:
        return self.name.startswith("int")


def _element(name: str, kind: Kind, bits: int, holder: str) -> ElementType:
    return ElementType(name, kind, bits, np.dtype(holder))


# Keys are the numbers of CoreML.Specification.MILSpec.DataType (MIL.proto).
_BY_NUMBER = {
    1: _element("bool", "bool", 8, "bool"),
    2: _element("string", "string", 0, "object"),
    10: _element("fp16", "float", 16, "float16"),
    11: _element("fp32", "float", 32, "float32"),
    12: _element("fp64", "float", 64, "float64"),
    21: _element("int8", "int", 8, "int8"),
    22: _element("int16", "int", 16, "int16"),
    23: _element("int32", "int", 32, "int32"),
    24: _element("int64", "int", 64, "int64"),
    25: _element("int4", "int", 4, "int8"),
    31: _element("uint8", "int", 8, "uint8"),
    32: _element("uint16", "int", 16, "uint16"),
    33: _element("uint32", "int", 32, "uint32"),
    34: _element("uint64", "int", 64, "uint64"),
    35: _element("uint4", "int", 4, "uint8"),
    36: _element("uint2", "int", 2, "uint8"),
    37: _element("uint1", "int", 1, "uint8"),
    38: _element("uint6", "int", 6, "uint8"),
    39: _element("uint3", "int", 3, "uint8"),
}


def element_type(number: int) -> ElementType:
    """The element type with this number in ``MIL.proto``.

    Raises:
        S2PError: a type that no supported program holds (bfloat16, 8-bit floats) or an unknown number.
    """
    if number not in _BY_NUMBER:
        raise S2PError(
            f"the program holds tensors of element type {number}, which is not supported", "convert it in fp16 or fp32"
        )
    return _BY_NUMBER[number]


@dataclass(frozen=True)
class TensorType:
    """Element type and shape; a dimension unknown until run time is ``None``."""

    element: ElementType
    shape: tuple[int | None, ...]

    @property
    def count(self) -> int:
        """Number of elements; :class:`S2PError` when a dimension is unknown."""
        if None in self.shape:
            raise S2PError("a constant of the program has no fixed shape", "the package is damaged, convert it again")
        return math.prod(size for size in self.shape if size is not None)

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of ``shape`` has this type."""
        return len(shape) == len(self.shape) and all(b is None or a == b for a, b in zip(shape, self.shape, strict=True))

    def __str__(self) -> str:
        return f"{self.element.name}[{', '.join('?' if size is None else str(size) for size in self.shape)}]"


def tensor_type(message: Any) -> TensorType:
    """Read a ``ValueType`` message; a list of scalars reads as a vector.

    Raises:
        S2PError: states, tuples and dictionaries, which no diffusion component has.
    """
    kind = message.WhichOneof("type")
    if kind == "listType":
        inner = tensor_type(message.listType.type)
        return TensorType(inner.element, (_dimension(message.listType.length), *inner.shape))
    if kind != "tensorType":
        raise S2PError(f"the program holds a value of kind {kind}, which is not supported", "convert the model without states")
    tensor = message.tensorType
    return TensorType(element_type(tensor.dataType), tuple(_dimension(dimension) for dimension in tensor.dimensions))


def _dimension(message: Any) -> int | None:
    return int(message.constant.size) if message.WhichOneof("dimension") == "constant" else None


_AT_ONCE = 1 << 16
"""Indices that are looked up at once: NumPy widens them to 8 bytes each, and these stay in the processor's cache."""


def look_up(table: NDArray[Any], indices: NDArray[Any]) -> NDArray[Any]:
    """``table[indices]``, several times as fast as NumPy's own indexing by small integers, and without a wide copy of the indices.

    Args:
        table: [entries, length]
        indices: of any integer dtype and shape, below ``entries``.

    Returns:
        [*indices.shape, length]

    Raises:
        IndexError: an index is out of bounds.
    """
    if indices.size and (int(indices.max()) >= len(table) or int(indices.min()) < 0):
        raise IndexError(f"an index is outside its table of {len(table)} entries")
    flat = indices.reshape(-1)
    found = np.empty((flat.size, table.shape[1]), table.dtype)
    for start in range(0, flat.size, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        # "clip" is the mode that writes straight into ``out``; the bounds are checked above.
        np.take(table, flat[part], axis=0, out=found[part], mode="clip")
    return found.reshape(*indices.shape, table.shape[1])


def values_of_bytes(element: ElementType) -> NDArray[Any]:
    """The values that each byte holds, [256, 8 / bits], for elements of 1, 2 or 4 bits."""
    bits = element.bits
    values = (np.arange(256, dtype=np.uint8)[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8(2**bits - 1)
    return _extend_sign(values, bits) if element.signed else values


def unpack_bits(packed: NDArray[np.uint8], element: ElementType, count: int) -> NDArray[Any]:
    """Expand ``count`` values of ``element.bits`` < 8 bits, packed from the least significant bit of each byte upward.

    Args:
        packed: uint8 [ceil(count * bits / 8)].

    Returns:
        int8 or uint8 [count]; signed types are sign-extended.
    """
    if element.bits in (1, 2, 4):
        return look_up(values_of_bytes(element), packed).reshape(-1)[:count]
    values = _unpack_groups(packed, element.bits)[:count]
    return _extend_sign(values, element.bits) if element.signed else values


def _unpack_groups(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Values that cross bytes: every ``bits`` bytes hold eight of them and fit a 64-bit word."""
    groups = -(-packed.size // bits)
    whole = np.zeros(groups * bits, np.uint8)
    whole[: packed.size] = packed
    words = np.zeros((groups, 8), np.uint8)
    words[:, :bits] = whole.reshape(groups, bits)
    wide = words.view("<u8")[:, 0]
    values = np.empty((groups, 8), np.uint8)
    for place in range(8):
        values[:, place] = (wide >> np.uint64(place * bits)) & np.uint64(2**bits - 1)
    return values.reshape(-1)


def _extend_sign(values: NDArray[np.uint8], bits: int) -> NDArray[np.int8]:
    """Moving the sign bit to bit 7 and shifting back arithmetically."""
    extended: NDArray[np.int8] = (values << np.uint8(8 - bits)).view(np.int8) >> np.int8(8 - bits)
    return extended
