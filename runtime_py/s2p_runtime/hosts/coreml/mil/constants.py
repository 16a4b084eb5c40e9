"""Constants and compressed weights of a program, read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.coreml.mil.decompress import DECOMPRESSORS
from s2p_runtime.hosts.coreml.mil.types import ElementType, TensorType, tensor_type, unpack_bits

_FIELD_OF_KIND = {"bool": ("bools",), "string": ("strings",), "float": ("floats", "doubles"), "int": ("ints", "longInts")}


@dataclass(frozen=True)
class Constant:
    """A literal: a tensor in the blob file, or one inside the program message.

    Attributes:
        type: declared type.
        stored_bytes: bytes it takes in the blob file, 0 for a literal inside the program.
        read: returns the elements, [count] in ``type.element.holder``.
    """

    type: TensorType
    stored_bytes: int
    read: Callable[[], NDArray[Any]]

    def array(self) -> NDArray[Any]:
        """The elements in their declared shape; sub-byte integers widened to int8 or uint8. May be read-only."""
        return self.read().reshape(tuple(size or 0 for size in self.type.shape))

    def text(self) -> str:
        """The value of a scalar string constant."""
        return str(self.array().item())


def read_constant(message: Any, blob: Callable[[str, int, ElementType, int], NDArray[Any]]) -> Constant:
    """Wrap a ``Value`` message.

    Args:
        message: ``CoreML.Specification.MILSpec.Value``.
        blob: (file name, offset, element type, count) -> elements.

    Raises:
        S2PError: a value of an unsupported kind, or with another number of elements than its type says.
    """
    declared = tensor_type(message.type)
    count = declared.count
    if message.WhichOneof("value") == "blobFileValue":
        name, offset = message.blobFileValue.fileName, int(message.blobFileValue.offset)
        size = (count * declared.element.bits + 7) // 8
        return Constant(declared, size, lambda: blob(name, offset, declared.element, count))
    kind = message.immediateValue.WhichOneof("value")
    if kind == "list":
        elements = [_immediate(item.immediateValue.tensor, declared.element, 1) for item in message.immediateValue.list.values]
        values = np.concatenate(elements) if elements else np.empty(0, declared.element.holder)
    elif kind == "tensor":
        values = _immediate(message.immediateValue.tensor, declared.element, count)
    else:
        raise S2PError(f"the program holds a constant of kind {kind}, which is not supported", "convert the model again")
    if values.size != count:
        raise S2PError(
            f"a constant of type {declared} holds {values.size} elements", "the package is damaged, convert it again"
        )
    return Constant(declared, 0, lambda: values)


def _immediate(tensor: Any, element: ElementType, count: int) -> NDArray[Any]:
    """Elements of a ``TensorValue``: a typed list, or little-endian bytes (fp16 and most integers)."""
    field = tensor.WhichOneof("value")
    if field == "bytes":
        raw = np.frombuffer(tensor.bytes.values, np.uint8)
        if element.kind == "string" or raw.size != (count * element.bits + 7) // 8:
            raise S2PError(
                f"a constant of {count} {element.name} holds {raw.size} bytes", "the package is damaged, convert it again"
            )
        return unpack_bits(raw, element, count) if element.bits < 8 else raw.view(element.holder)
    if field not in _FIELD_OF_KIND[element.kind]:
        raise S2PError(
            f"a constant of element type {element.name} is stored as {field}", "the package is damaged, convert it again"
        )
    return np.array(getattr(tensor, field).values, dtype=element.holder)


@dataclass(frozen=True)
class Weight:
    """A compile-time constant of a function: a ``const`` or a ``constexpr_*`` operation.

    Attributes:
        name: name of the value in the program.
        form: operation type, e.g. ``const`` or ``constexpr_lut_to_dense``.
        type: declared type of the dense value.
        sources: the operation's parameters; a parameter that another constexpr makes is that Weight.
    """

    name: str
    form: str
    type: TensorType
    sources: Mapping[str, Constant | Weight]

    @property
    def stored_bytes(self) -> int:
        """Bytes in the blob file, all parameters together."""
        return sum(source.stored_bytes for source in self.sources.values())

    def stored(self) -> dict[str, NDArray[Any]]:
        """The parameters as stored: integers, look-up tables, scales; sub-byte integers widened, nothing scaled.

        The iOS 16 form of ``constexpr_lut_to_dense`` keeps its indices packed, as Core ML stores them there.
        A nested parameter's own parts appear as ``parameter/part``.
        """
        parts: dict[str, NDArray[Any]] = {}
        for name, source in self.sources.items():
            if isinstance(source, Weight):
                parts.update({f"{name}/{inner}": array for inner, array in source.stored().items()})
            else:
                parts[name] = source.array()
        return parts

    def dense(self, *, exact: bool = False) -> NDArray[Any]:
        """The value that the program computes with, shape ``type.shape``.

        Args:
            exact: float64, with products such as scale * integer unrounded. Otherwise in the declared dtype (products in
                float32, rounded once), which is how Core ML materializes it.

        Raises:
            S2PError: an unknown form, missing parameters or contradictory shapes.
        """
        if self.form == "const":
            value = self._source("val", exact)
        else:
            decompress = DECOMPRESSORS.get(self.form)
            if decompress is None:
                raise S2PError(
                    f"weight {self.name} has the unknown form {self.form}", "convert the model with palettes or linear scales"
                )
            parts = {name: self._source(name, exact) for name in self.sources}
            try:
                value = decompress(parts, np.dtype(np.float64 if exact else np.float32))
            except (KeyError, ValueError, IndexError, TypeError) as error:
                raise S2PError(f"weight {self.name} ({self.form}) is damaged ({error})", "convert the model again") from error
        if not self.type.admits(value.shape):
            raise S2PError(f"weight {self.name} has shape {value.shape}, declared {self.type}", "convert the model again")
        if self.type.element.kind == "float":
            return value.astype(np.float64 if exact else self.type.element.holder, copy=False)
        return value

    def _source(self, name: str, exact: bool) -> NDArray[Any]:
        source = self.sources.get(name)
        if source is None:
            raise S2PError(f"weight {self.name} lacks its {name}", "the package is damaged, convert it again")
        return source.dense(exact=exact) if isinstance(source, Weight) else source.array()
