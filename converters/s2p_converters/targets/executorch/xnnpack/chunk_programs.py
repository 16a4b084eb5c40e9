"""The U-Net of a checkpoint as several XNNPACK programs that run one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from s2p_converters.core.checkpoint import Checkpoint, QuantizedLayer
from s2p_converters.core.graph import LayerSpec, prompt_columns
from s2p_converters.core.graph.splitting import CONTEXT, OUTPUT, SAMPLE, STEP, TIME_TABLE, Chunk, UNetChunk, plan_chunks
from s2p_converters.targets.executorch.programs import write_program
from s2p_converters.targets.executorch.xnnpack.calibration import output_scales
from s2p_converters.targets.executorch.xnnpack.check import self_check
from s2p_converters.targets.executorch.xnnpack.inspection import LayerNode, check_integers, read_program
from s2p_converters.targets.executorch.xnnpack.lowering import METHOD, integer_layers, layer_summaries
from s2p_converters.targets.executorch.xnnpack.operators import XnnpackOperators, uses_four_bits
from s2p_converters.targets.executorch.xnnpack.program import build_program, delegate
from s2p_converters.targets.executorch.xnnpack.subgraph import Subgraph
from s2p_converters.targets.executorch.xnnpack.symbols import Symbol, image_input, image_output
from s2p_converters.targets.executorch.xnnpack.unet import Columns, SymbolTables, prompt_row, symbol_unet, unet_columns
from s2p_converters.targets.interface import condition_ports
from s2p_converters.targets.ports import context_shape, sample_shape, tensor
from s2p_converters.targets.protocol import ConvertedUNet
from s2p_runtime.component import Component, TensorSpec
from s2p_runtime.errors import S2PError

if TYPE_CHECKING:
    from s2p_converters.targets.executorch.options import ExecuTorchOptions


class _ChunkProgram(nn.Module):
    """One ``index_select`` on the chunk's own step table, one on the prompt's where it takes that, then its subgraph."""

    table: Tensor

    def __init__(self, inputs: Sequence[str], columns: Columns, graph: Subgraph) -> None:
        super().__init__()
        self.inputs = list(inputs)
        if columns:
            self.register_buffer("table", torch.from_numpy(np.concatenate(list(columns.values()), axis=1)))
        self.subgraph = delegate(graph)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The inputs in order, the call's index as ``step`` int64 [1] -> the chunk's outputs in order."""
        given = dict(zip(self.inputs, values, strict=True))
        step = given.get(STEP)
        if step is not None:
            given[STEP] = self.table.index_select(0, step)
            if TIME_TABLE in given:
                given[TIME_TABLE] = prompt_row(given[TIME_TABLE], step)
        return tuple(self.subgraph(*given.values()))


def convert_chunks(checkpoint: Checkpoint, options: ExecuTorchOptions, folder: Path) -> ConvertedUNet:
    """Write the quantized U-Net into a bundle's folder as ``options.chunks`` programs, ``unet_1`` and so on, and check the files.

    Tensors between programs lie as [B, H, W, C], as XNNPACK has them: nothing is moved at a cut.

    Raises:
        S2PError: the recipe needs something that the backend cannot do, or the U-Net has fewer units than that, or a chunk has no
            step table of its own beside the prompt's.
        CheckFailed: a layer does not run on an integer kernel, or holds other integers.
    """
    integer = integer_layers(checkpoint)
    if options.self_check and options.scheme == "pinned":
        self_check(integer, len(checkpoint.manifest.plan.calls))
    sample, context = sample_shape(checkpoint), context_shape(checkpoint)
    costs = {spec.name: _resident_bytes(spec, checkpoint.layers.get(spec.name)) for spec in checkpoint.specs}
    plan = plan_chunks(checkpoint.structure, options.chunks, costs, sample, context)
    floats = {name: np.asarray(value, np.float32) for name, value in checkpoint.floats.items()}
    scales = output_scales(checkpoint) if options.scheme == "static" else None
    names = [spec.name for spec in checkpoint.specs]
    of_prompt = prompt_columns(checkpoint.structure)
    table = next((port for port in condition_ports(checkpoint) if port.name == TIME_TABLE), None)
    columns = unet_columns({} if of_prompt else checkpoint.time_tables, checkpoint.layers, options.scheme)
    components: dict[str, Component] = {}
    nodes: list[LayerNode] = []
    for number, chunk in enumerate(plan, 1):
        own = {name: column for name, column in columns.items() if chunk.holds(name)}
        told = table if any(chunk.holds(name) for name in of_prompt) else None
        if told is not None and not own:
            raise S2PError(
                "`chunks` needs activations with scales for each call where prompts bring time tables",
                "convert without `chunks`",
                "chunks",
            )
        inputs = _inputs(chunk, bool(own), sample, context, told)
        graph = Subgraph(names)
        operators = XnnpackOperators(graph, checkpoint.layers, floats, options.scheme, scales)
        _trace(checkpoint, chunk, inputs, own, operators, of_prompt)
        examples = tuple(torch.zeros(port.shape, dtype=getattr(torch, port.dtype)) for port in inputs)
        data = build_program({METHOD: (_ChunkProgram([port.name for port in inputs], own, graph), examples)})
        outputs = tuple(tensor(name, sample if name == OUTPUT else _memory_shape(chunk, name)) for name in chunk.outputs)
        name = f"unet_{number}"
        summary = read_program(data)
        components[name] = write_program(folder / f"{name}.pte", data, options.backend, inputs, outputs)
        check_integers(summary, names, {name: layer for name, layer in integer.items() if chunk.holds(name)}, options.scheme)
        nodes.extend(summary.layers)
    return ConvertedUNet(components, layer_summaries(checkpoint, nodes, names, options))


def _trace(
    checkpoint: Checkpoint,
    chunk: Chunk,
    inputs: Sequence[TensorSpec],
    columns: Columns,
    operators: XnnpackOperators,
    of_prompt: Mapping[str, int],
) -> None:
    """Write a chunk's nodes into the operators' subgraph."""
    graph = operators.graph
    widths = {name: column.shape[1] for name, column in columns.items()}
    unet = symbol_unet(checkpoint.structure, SymbolTables(widths, of_prompt), operators)
    symbols = []
    for port in inputs:
        if port.name == SAMPLE:
            symbols.append(image_input(graph, port.shape))
        elif port.name == STEP:
            symbols.append(Symbol(graph, graph.input((1, sum(widths.values()))), False))
        elif port.name == TIME_TABLE:
            symbols.append(Symbol(graph, graph.input((port.shape[0], port.shape[2])), False))
        else:
            symbols.append(Symbol(graph, graph.input(port.shape), port.name != CONTEXT))
    module = UNetChunk(unet, chunk, [port.name for port in inputs], unet.tables if columns else None)
    results = module(*symbols)
    if chunk.outputs == (OUTPUT,):
        image_output(results)
        return
    for symbol in results if isinstance(results, tuple) else (results,):
        graph.output(symbol.settle().value)


def _inputs(
    chunk: Chunk, has_step: bool, sample: tuple[int, ...], context: tuple[int, ...], table: TensorSpec | None
) -> tuple[TensorSpec, ...]:
    own = []
    if chunk.start == 0:
        own.append(tensor(SAMPLE, sample))
    if has_step:
        own.append(tensor(STEP, (1,), "int64"))
    if chunk.uses_context:
        own.append(tensor(CONTEXT, context))
    if table is not None:
        own.append(table)
    return (*own, *(tensor(name, _memory_shape(chunk, name)) for name in chunk.crossing_inputs))


def _memory_shape(chunk: Chunk, name: str) -> tuple[int, ...]:
    """[B, H, W, C] of a tensor between programs."""
    batch, channels, height, width = chunk.shapes[name]
    return (batch, height, width, channels)


def _resident_bytes(spec: LayerSpec, layer: QuantizedLayer | None) -> int:
    """Bytes of a layer's weights in memory: XNNPACK has 4-bit kernels for linear layers only."""
    if layer is None or layer.activation_bits is None:
        return 4 * spec.weights
    return (spec.weights + 1) // 2 if uses_four_bits(layer) else spec.weights
