"""Several ML Programs as the functions of one, each weight stored once.

coremltools' own ``save_multifunction`` parses every program and writes it anew; here the messages and the weights' bytes stay as
they were emitted, and only places of weights change. Weight files are described in :mod:`s2p_runtime.hosts.coreml.mil.blob`. What is
left of a further function is its graph, which is written with short names and equal constants once: half the bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from s2p_runtime.quiet import quiet_import

with quiet_import():
    from coremltools.proto import Model_pb2

MINIMUM_SPECIFICATION = 9
"""Of iOS 18, the first to know functions."""

_MODEL = Path("Data") / "com.apple.CoreML" / "model.mlmodel"
_WEIGHTS = Path("Data") / "com.apple.CoreML" / "weights" / "weight.bin"
_RECORD = struct.Struct("<IIQQQ")
_ALIGNMENT = 64

Stored = np.memmap[Any, np.dtype[np.uint8]]
"""A weight file's bytes."""


class _Weights:
    """A weight file that grows by the records of others which it does not hold yet."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._places: dict[bytes, int] = {}

    def know(self, source: Stored, offset: int) -> None:
        """Remember a record that the file, which began as a copy of ``source``, already holds."""
        self._places.setdefault(_digest(source, offset), offset)

    def place(self, source: Stored, offset: int) -> int:
        """Place in this file of the record at ``offset`` of another."""
        digest = _digest(source, offset)
        if digest not in self._places:
            self._places[digest] = self._append(source, offset)
        return self._places[digest]

    def _append(self, source: Stored, offset: int) -> int:
        sentinel, kind, length, start, padding = _RECORD.unpack_from(source.data, offset)
        self._file.seek(0, 2)
        self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
        place = self._file.tell()
        record = _RECORD.pack(sentinel, kind, length, place + _ALIGNMENT, padding)
        self._file.write(record.ljust(_ALIGNMENT, b"\0"))
        self._file.write(source[start : start + length].data)
        self._file.seek(0)
        count = int.from_bytes(self._file.read(4), "little")
        self._file.seek(0)
        self._file.write((count + 1).to_bytes(4, "little"))
        return place


def _digest(source: Stored, offset: int) -> bytes:
    """Of a record's type and data."""
    _, kind, length, start, padding = _RECORD.unpack_from(source.data, offset)
    digest = hashlib.sha256(struct.pack("<IQQ", kind, length, padding))
    digest.update(source[start : start + length].data)
    return digest.digest()


def merge_functions(packages: Mapping[str, Path], path: Path) -> None:
    """Write the ``main`` function of each package as a function of one program.

    Args:
        packages: name of the function -> .mlpackage of a single function, for iOS 18 or later. The first becomes the default.
        path: the .mlpackage to create.
    """
    names = list(packages)
    shutil.copytree(packages[names[0]], path)
    models = {name: _read_model(package) for name, package in packages.items()}
    merged = models[names[0]]
    description = Model_pb2.ModelDescription(defaultFunctionName=names[0])
    description.metadata.CopyFrom(merged.description.metadata)
    for name, model in models.items():
        single = model.description
        description.functions.append(
            Model_pb2.FunctionDescription(name=name, input=single.input, output=single.output, state=single.state)
        )
    with (path / _WEIGHTS).open("r+b") as file:
        weights = _Weights(file)
        first = np.memmap(packages[names[0]] / _WEIGHTS, np.uint8, "r")
        for value in _stored_values(merged):
            weights.know(first, value.blobFileValue.offset)
        for name in names[1:]:
            source = np.memmap(packages[name] / _WEIGHTS, np.uint8, "r")
            for value in _stored_values(models[name]):
                value.blobFileValue.offset = weights.place(source, value.blobFileValue.offset)
    functions = {name: model.mlProgram.functions["main"] for name, model in models.items()}
    program = merged.mlProgram
    for name in names:
        if name != "main":
            program.functions[name].CopyFrom(functions[name])
            if name != names[0]:
                _shorten(program.functions[name])
    if "main" not in names:
        del program.functions["main"]
    merged.description.CopyFrom(description)
    merged.specificationVersion = max(MINIMUM_SPECIFICATION, *(model.specificationVersion for model in models.values()))
    (path / _MODEL).write_bytes(merged.SerializeToString(deterministic=True))


def share_small_constants(function: Any) -> None:
    """Write equal constants that stand in the graph itself once, under the name of the first: a tenth of the graph."""
    for block in function.block_specializations.values():
        if any(operation.blocks for operation in block.operations):
            continue  # inner blocks see names of outer ones
        first: dict[bytes, str] = {}
        stands_for: dict[str, str] = {}
        operations = list(block.operations)
        del block.operations[:]
        for operation in operations:
            if operation.type == "const" and operation.outputs[0].name not in block.outputs:
                value = operation.attributes["val"]
                if value.WhichOneof("value") == "immediateValue":
                    name = operation.outputs[0].name
                    stands_for[name] = first.setdefault(value.SerializeToString(deterministic=True), name)
                    if stands_for[name] != name:
                        continue
            for argument in operation.inputs.values():
                for binding in argument.arguments:
                    if binding.WhichOneof("binding") == "name":
                        binding.name = stands_for.get(binding.name, binding.name)
            block.operations.append(operation)


def _shorten(function: Any) -> None:
    """Write a function's graph in fewer bytes: equal constants once, values numbered.

    Inputs, outputs and compressed weights keep their names, by which one finds them.
    """
    for block in function.block_specializations.values():
        if any(operation.blocks for operation in block.operations):
            continue  # inner blocks see names of outer ones
        kept = {item.name for item in function.inputs} | set(block.outputs)
        operations = list(block.operations)
        kept |= {operation.outputs[0].name for operation in operations if operation.type.startswith("constexpr_")}
        short = {name: name for name in kept}
        fresh = (name for number in itertools.count() if (name := f"v{number}") not in kept)
        constants: dict[bytes, str] = {}
        del block.operations[:]
        for operation in operations:
            for argument in operation.inputs.values():
                for binding in argument.arguments:
                    if binding.WhichOneof("binding") == "name":
                        binding.name = short[binding.name]
            if operation.type == "const" and operation.outputs[0].name not in kept:
                content = operation.attributes["val"].SerializeToString(deterministic=True)
                if content in constants:
                    short[operation.outputs[0].name] = constants[content]
                    continue
                constants[content] = short[operation.outputs[0].name] = next(fresh)
            for output in operation.outputs:
                if output.name not in short:
                    short[output.name] = next(fresh)
                output.name = short[output.name]
            label = operation.attributes["name"].immediateValue.tensor.strings.values
            label[:] = [operation.outputs[0].name]
            block.operations.append(operation)


def _read_model(package: Path) -> Any:
    model = Model_pb2.Model()
    model.ParseFromString((package / _MODEL).read_bytes())
    return model


def _stored_values(model: Any) -> Iterator[Any]:
    """Every value of a program that stands in its weight file."""
    for function in model.mlProgram.functions.values():
        for block in function.block_specializations.values():
            yield from _values_of(block)


def _values_of(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        yield from _stored_in(operation)
        for inner in operation.blocks:
            yield from _values_of(inner)


def _stored_in(operation: Any) -> Iterator[Any]:
    """An operation's own values that stand in the weight file."""
    values = list(operation.attributes.values())
    for argument in operation.inputs.values():
        values.extend(binding.value for binding in argument.arguments if binding.WhichOneof("binding") == "value")
    yield from (value for value in values if value.WhichOneof("value") == "blobFileValue")
