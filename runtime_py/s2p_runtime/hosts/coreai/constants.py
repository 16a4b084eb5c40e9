"""What a Core AI program stores, read from its ``main.mlirb`` by Apple's bindings."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RESOURCE = re.compile(r"dense_resource<([^>]+)>")
_DRAWN, _NUMBERED = "resource_", "constant_"
_FLOATS = {"f16": np.float16, "f32": np.float32}


@dataclass(frozen=True)
class StoredConstant:
    """One constant.

    Attributes:
        key: ``function/name``; constants without a name of their own are numbered in the order of the graph.
        name: the one that it was written under, or None.
        kind: element type: ``f16``, ``si4``, ``ui3`` and so on.
        shape: of the tensor.
        data: the stored bytes, below 8 bits packed from the least significant bit upwards.
    """

    key: str
    name: str | None
    kind: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    @property
    def digest(self) -> bytes:
        """SHA-256 of type, shape and bytes."""
        digest = hashlib.sha256(f"{self.kind} {self.shape}".encode())
        digest.update(self.data.data)
        return digest.digest()

    @property
    def bits(self) -> int:
        """Width of an element."""
        return int(re.sub(r"\D", "", self.kind))

    @property
    def values(self) -> NDArray[Any]:
        """The numbers: floats in their own type, integers as int64."""
        if self.kind in _FLOATS:
            return self.data.view(_FLOATS[self.kind]).reshape(self.shape)
        count, bits = math.prod(self.shape), self.bits
        each = np.unpackbits(self.data, bitorder="little")[: count * bits].reshape(count, bits).astype(np.int64)
        unsigned: NDArray[np.int64] = each @ (1 << np.arange(bits))
        signed = unsigned - ((unsigned >> (bits - 1)) << bits) if self.kind.startswith("s") else unsigned
        return signed.reshape(self.shape)


def read_constants(path: Path) -> Iterator[StoredConstant]:
    """Constants of an ``.aimodel``, of all its graphs.

    Raises:
        RuntimeError: Apple's bindings cannot read it.
    """
    from coreai.authoring import AIModelAsset

    module = AIModelAsset.load(path).program._module._mlir_module
    for graph in module.body.operations:
        function = str(graph.attributes["sym_name"]).strip('"')
        numbers = 0
        for operation in operations_of(graph):
            if operation.name == "coreai.constant":
                constant = _constant(operation, function, numbers)
                numbers += constant.name is None
                yield constant


def operations_of(operation: Any) -> Iterator[Any]:
    """Every operation inside of one, of inner regions too."""
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner
                yield from operations_of(inner)


def _constant(operation: Any, function: str, number: int) -> StoredConstant:
    element, shape = _kind(operation)
    named = _resource(operation)
    named = None if named is None or named.startswith((_DRAWN, _NUMBERED)) else named
    return StoredConstant(f"{function}/{named or number}", named, element, shape, stored_bytes(operation))


def _kind(operation: Any) -> tuple[str, tuple[int, ...]]:
    """Element type and shape of a ``coreai.constant``."""
    from coreai._compiler.ir import RankedTensorType

    kind = RankedTensorType(operation.attributes["value"].type)
    return str(kind.element_type), tuple(kind.shape)


def _resource(operation: Any) -> str | None:
    """Name under which a large constant lies beside the graphs; None: it lies in its graph."""
    from coreai._compiler.ir import DenseResourceElementsAttr

    attribute = operation.attributes["value"]
    if not DenseResourceElementsAttr.isinstance(attribute):
        return None
    found = _RESOURCE.match(str(attribute))
    return None if found is None else found[1]


def drawn_name(operation: Any) -> str | None:
    """The name of a large constant that Apple's library named by itself; None: it has another, or none."""
    name = _resource(operation)
    return name if name is not None and name.startswith(_DRAWN) else None


def stored_bytes(operation: Any) -> NDArray[np.uint8]:
    """What a ``coreai.constant`` holds; below 8 bits packed from the least significant bit upwards."""
    from coreai._compiler._mlir_libs._coreaiIR._bindings.compiler import copy_constant_value_to_array

    element, shape = _kind(operation)
    bits = 8 if element == "i1" else int(re.sub(r"\D", "", element))
    data = np.zeros((math.prod(shape) * bits + 7) // 8, np.uint8)
    if data.size:
        copy_constant_value_to_array(constant_op=operation.operation, destination=data)
    return data
