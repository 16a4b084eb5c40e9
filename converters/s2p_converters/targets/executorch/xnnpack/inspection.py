"""Reads .pte programs back: what is delegated, with which datatypes, and which integers a layer holds."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import QuantizedLayer
from s2p_converters.targets.executorch.pte import open_pte
from s2p_converters.targets.executorch.xnnpack.operators import uses_four_bits, xnnpack_weight
from s2p_converters.targets.executorch.xnnpack.scheme import Scheme
from s2p_converters.targets.executorch.xnnpack.subgraph import XNNHeader
from s2p_runtime.errors import CheckFailed
from s2p_runtime.quiet import quiet_import

with quiet_import():
    from executorch.backends.xnnpack import serialization
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

XNNPACK = "XnnpackBackend"
_LAYER_KINDS = {"XNNConv2d": "conv", "XNNFullyConnected": "linear", "XNNDepthwiseConv2d": "conv"}


@dataclass(frozen=True)
class LayerNode:
    """A convolution or fully connected node as it stands in the file.

    Attributes:
        method: that it belongs to.
        place: position of the layer among the network's layers, from 1; 0 for arithmetic that is no layer.
        datatypes: of input, filter and output, e.g. ``("qdint8", "qcint8", "fp32")``.
        filter_bytes: stored weights.
        filter_shape: as XNNPACK sees it.
        scale: float32 [O], None for float weights.
    """

    method: str
    place: int
    kind: str
    datatypes: tuple[str, str, str]
    filter_bytes: bytes
    filter_shape: tuple[int, ...]
    scale: NDArray[np.float32] | None


@dataclass(frozen=True)
class ProgramSummary:
    """What a .pte holds.

    Attributes:
        delegates: backend of each delegate, in order; subgraphs of all methods.
        operators: portable operators that run outside of delegates.
        nodes: how many XNNPACK nodes there are of each kind.
        layers: convolution and fully connected nodes of all methods, in the order in which they run.
    """

    methods: tuple[str, ...]
    delegates: tuple[str, ...]
    operators: tuple[str, ...]
    nodes: Mapping[str, int]
    layers: tuple[LayerNode, ...]


def read_program(data: bytes) -> ProgramSummary:
    """Take a .pte apart.

    Raises:
        S2PError: not a .pte, or truncated.
    """
    file = open_pte(data)
    program, named = file.program, file.named_data
    constants = {key: named.buffers[entry.buffer_index] for key, entry in named.pte_data.items()} if named else {}
    delegates: list[str] = []
    operators: set[str] = set()
    nodes: Counter[str] = Counter()
    layers: list[LayerNode] = []
    for plan in program.execution_plan:
        operators.update(operator.name for operator in plan.operators)
        for part in plan.delegates:
            delegates.append(part.id)
            if part.id == XNNPACK:
                blob = bytes(program.backend_delegate_data[part.processed.index].data)
                graph = _read_subgraph(blob)
                nodes.update(node["xnode_union_type"] for node in graph["xnodes"])
                layers.extend(_layer_nodes(plan.name, graph, constants))
    methods = tuple(plan.name for plan in program.execution_plan)
    return ProgramSummary(methods, tuple(delegates), tuple(sorted(operators)), dict(nodes), tuple(layers))


def _read_subgraph(blob: bytes) -> dict[str, Any]:
    """The subgraph as JSON."""
    header = XNNHeader.from_bytes(blob[: XNNHeader.EXPECTED_LENGTH])
    start = header.flatbuffer_offset
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "graph.bin"
        binary.write_bytes(blob[start : start + header.flatbuffer_size])
        text = Path(folder) / "schema.fbs"
        text.write_bytes((Path(next(iter(serialization.__path__))) / "schema.fbs").read_bytes())
        _flatc_decompile(folder, str(text), str(binary), ["--raw-binary"])
        # flatc writes open bounds as inf, which Python's JSON spells Infinity.
        json_text = re.sub(r'": (-?)inf\b', r'": \1Infinity', (Path(folder) / "graph.json").read_text())
        graph: dict[str, Any] = json.loads(json_text)
    return graph


def _layer_nodes(method: str, graph: dict[str, Any], constants: Mapping[str, bytes]) -> Iterator[LayerNode]:
    values: dict[int, tuple[dict[str, Any], dict[str, Any] | None]] = {}
    for entry in graph["xvalues"]:
        held = entry["xvalue_union"]
        tensor = held.get("tensor_value", held)
        values[tensor["id_out"]] = (tensor, held.get("quant_params"))

    def constant(index: int) -> bytes:
        where = graph["constant_data"][index]
        return bytes(constants[where["named_key"]])[: where["size"]]

    def datatype(value: int) -> str:
        return str(values[value][0]["datatype"]).removeprefix("xnn_datatype_")

    for node in graph["xnodes"]:
        kind = _LAYER_KINDS.get(node["xnode_union_type"])
        if kind is None:
            continue
        body = node["xnode_union"]
        tensor, quantization = values[body["filter_id"]]
        scale = None
        if quantization is not None:
            scale = np.frombuffer(constant(quantization["scale_buffer_idx"]), np.float32)
        yield LayerNode(
            method=method,
            place=node["debug_handle"],
            kind=kind,
            datatypes=(datatype(body["input1_id"]), datatype(body["filter_id"]), datatype(body["output_id"])),
            filter_bytes=constant(tensor["constant_buffer_idx"]),
            filter_shape=tuple(tensor["dims"]),
            scale=scale,
        )


def stored_integers(node: LayerNode) -> NDArray[np.int8]:
    """The integers of an integer node, int8 of ``filter_shape``."""
    if node.datatypes[1] == "qcint4":
        rows, columns = node.filter_shape
        packed = np.frombuffer(node.filter_bytes, np.uint8).reshape(rows, (columns + 1) // 2)
        both = np.stack([packed & 0x0F, packed >> 4], axis=-1).reshape(rows, -1)[:, :columns]
        return (both.astype(np.int8) - 8).astype(np.int8)
    return np.frombuffer(node.filter_bytes, np.int8).reshape(node.filter_shape)


def expected_datatypes(layer: QuantizedLayer, scheme: Scheme) -> tuple[str, str, str]:
    """Datatypes that a quantized layer must have in the file."""
    weights = "qcint4" if uses_four_bits(layer) else "qcint8"
    return ("qint8", weights, "qint8") if scheme == "static" else ("qdint8", weights, "fp32")


def check_integers(summary: ProgramSummary, names: Sequence[str], layers: Mapping[str, QuantizedLayer], scheme: Scheme) -> None:
    """Compare every integer layer of each method of a written program with the checkpoint, bit for bit.

    Args:
        names: every layer of the network in order, as given when the program was written.
        layers: those that must run on integer kernels.

    Raises:
        CheckFailed: a layer is missing, runs in other datatypes, or holds other integers or scales.
    """
    for method in summary.methods:
        _check_method([node for node in summary.layers if node.method == method], names, layers, scheme)


def _check_method(
    nodes_of_method: Sequence[LayerNode], names: Sequence[str], layers: Mapping[str, QuantizedLayer], scheme: Scheme
) -> None:
    found: dict[str, list[LayerNode]] = {}
    for node in nodes_of_method:
        if node.place:
            found.setdefault(names[node.place - 1], []).append(node)
    for name, layer in layers.items():
        nodes = found.get(name, [])
        wanted = expected_datatypes(layer, scheme)
        wrong = next((node.datatypes for node in nodes if node.datatypes != wanted), None)
        if not nodes or wrong:
            reason = f"runs as {', '.join(wrong)}" if wrong else "is missing from the program"
            raise CheckFailed(
                f"layer {name} {reason} instead of {', '.join(wanted)}", "report this as a fault of the converter"
            )
        inputs = layer.spec.in_channels
        stored = np.concatenate([stored_integers(node) for node in nodes])
        scale = np.concatenate([node.scale for node in nodes if node.scale is not None])
        same = np.array_equal(stored[..., :inputs], xnnpack_weight(layer.spec, layer.integers))
        if not same or stored[..., inputs:].any() or not np.array_equal(scale, layer.scale.astype(np.float32)):
            raise CheckFailed(
                f"layer {name} holds other integers than the checkpoint", "report this as a fault of the converter"
            )
