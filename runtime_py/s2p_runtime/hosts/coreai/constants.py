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
    from coreai._compiler.ir import RankedTensorType

    attribute = operation.attributes["value"]
    kind = RankedTensorType(attribute.type)
    element, shape = str(kind.element_type), tuple(kind.shape)
    bits = 8 if element == "i1" else int(re.sub(r"\D", "", element))
    data = stored_bytes(operation, bits)
    named = None
    if type(attribute).__name__ == "Attribute" or "Resource" in type(attribute).__name__:
        found = _RESOURCE.match(str(attribute))
        named = found[1] if found and not found[1].startswith("resource_") else None
    return StoredConstant(f"{function}/{named or number}", named, element, shape, data)


def stored_bytes(operation: Any, bits: int) -> NDArray[np.uint8]:
    """What a ``coreai.constant`` with elements of this width holds."""
    from coreai._compiler._mlir_libs._coreaiIR._bindings.compiler import copy_constant_value_to_array
    from coreai._compiler.ir import RankedTensorType

    shape = tuple(RankedTensorType(operation.attributes["value"].type).shape)
    data = np.zeros((math.prod(shape) * bits + 7) // 8, np.uint8)
    if data.size:
        copy_constant_value_to_array(constant_op=operation.operation, destination=data)
    return data
