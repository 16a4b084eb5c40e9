"""The U-Net of a checkpoint as Core AI programs: whole, at several sizes, or in chunks."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.graph import CutRow, StepUNet, prompt_columns
from s2p_converters.core.graph.splitting import TIME_TABLE, Chunk, UNetChunk, chunk_inputs
from s2p_converters.core.reference import exact, load_floats
from s2p_converters.targets.coreai.builder import Builder, Value, ca
from s2p_converters.targets.coreai.operators import ChannelsFirstOperators, CoreAIOperators
from s2p_converters.targets.coreai.options import CoreAIOptions
from s2p_converters.targets.coreai.readback import check_stored
from s2p_converters.targets.coreai.symbols import Symbol
from s2p_converters.targets.coreai.weights import EmittedWeight, emitted_weight
from s2p_converters.targets.integer_programs import layer_summaries, program_layers
from s2p_converters.targets.interface import planned_chunks, unet_inputs, unet_output
from s2p_converters.targets.ports import Dtype, tensor
from s2p_converters.targets.protocol import LatentShapes
from s2p_converters.targets.timesteps import call_thresholds
from s2p_converters.targets.traced import Columns, TracedTables, name_norms
from s2p_runtime.bundle import LayerSummary
from s2p_runtime.component import TensorSpec


class SymbolTables(TracedTables):
    """See :class:`TracedTables`."""

    def forward(self, step: Symbol, time_table: Symbol | None = None) -> Mapping[str, Symbol]:
        """Call index int32 [1], table float32 [B, T, K] -> columns [1, C] and [B, C]."""
        builder, rows = step.builder, []
        index = step.reshape(1, 1).value
        if self.matrix is not None:
            table = builder.floats("step_table", self.matrix)
            rows.append(CutRow(step.with_value(ca.gather_nd(table, index)), self.widths))
        if time_table is not None and self.of_prompt is not None:
            branches, _, width = time_table.shape
            row = step.with_value(ca.gather_nd(time_table.transpose(0, 1).value, index)).reshape(branches, width)
            rows.append(CutRow(row.with_value(_as(row.value, builder)), self.of_prompt))
        return ChainMap({}, *rows)  # type: ignore[arg-type]


def _as(value: Value, builder: Builder) -> Value:
    """A float input in the program's precision."""
    return ca.cast(value, builder.dtype) if builder.dtype is np.float16 and str(value.type.dtype) == "f32" else value


def table_columns(checkpoint: Checkpoint, options: CoreAIOptions) -> Columns:
    """Everything that depends on the call, [T, C] each: time rows unless the prompt brings them, then ``<layer>.scale``."""
    columns: Columns = {} if prompt_columns(checkpoint.structure) else dict(checkpoint.time_tables)
    if options.quantizes_activations:
        for name, layer in checkpoint.layers.items():
            if layer.activation_scale is not None:
                columns[f"{name}.scale"] = layer.activation_scale[:, None]
    return columns


class _Writer:
    """A U-Net of symbols and what it writes into."""

    def __init__(self, checkpoint: Checkpoint, options: CoreAIOptions, weights: Mapping[str, EmittedWeight]) -> None:
        self.checkpoint, self.options = checkpoint, options
        self.builder = Builder(options.half)
        kind = ChannelsFirstOperators if options.form == "channels-first" else CoreAIOperators
        self.operators = kind(self.builder, weights, checkpoint.floats, options)
        self.columns = table_columns(checkpoint, options)
        self.of_prompt = prompt_columns(checkpoint.structure)
        self.tables = SymbolTables(self.columns, self.of_prompt)
        self.unet = StepUNet(checkpoint.structure, self.tables, self.operators)
        load_floats(self.unet, checkpoint, exact)
        name_norms(self.unet)

    def write(self, name: str, module: Callable[..., Any], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        """A graph that computes a module of symbols."""

        def body(*values: Value) -> list[Value]:
            self.operators.begin()
            given = [
                Symbol(self.builder, value if port.name == TIME_TABLE or port.dtype == "int32" else _as(value, self.builder))
                for port, value in zip(inputs, values, strict=True)
            ]
            found = module(*given)
            results = found if isinstance(found, tuple) else (found,)
            return [
                ca.cast(result.value, np.float32) if port.dtype == "float32" and self.options.half else result.value
                for port, result in zip(outputs, results, strict=True)
            ]

        with torch.no_grad():
            self.builder.graph(name, inputs, outputs, body)


def write_unet(checkpoint: Checkpoint, options: CoreAIOptions, path: Path, shapes: LatentShapes) -> None:
    """Write the U-Net as one program with a function for each shape; they share their weights.

    Raises:
        S2PError: a layer does not fit float16.
        CheckFailed: the file does not hold what it should.
    """
    weights = unet_weights(checkpoint, options)
    writer = _Writer(checkpoint, options, weights)
    for name, latents in shapes.items():
        inputs, output = unet_ports(checkpoint, options, latents)
        module: Callable[..., Any] = writer.unet
        if options.layout == "coreai-models":
            module = _told_timesteps(writer.unet, checkpoint.manifest.plan.timesteps)
        writer.write(name, module, inputs, [output])
    writer.builder.save(path)
    check_stored(path, weights, writer.tables.matrix, options.half)


def _told_timesteps(unet: StepUNet, timesteps: Sequence[float]) -> Callable[..., Symbol]:
    """The U-Net as it is told a timestep [B] and finds the call: the number of thresholds above it, see :func:`call_thresholds`."""
    thresholds = np.array(call_thresholds(timesteps) or [0], np.float32)

    def call(sample: Symbol, timestep: Symbol, context: Symbol) -> Symbol:
        told = timestep.narrow(0, 0, 1).value
        below = ca.cast(ca.broadcasting_greater(thresholds.astype(timestep.builder.dtype), told), np.int32)
        found: Symbol = unet(sample, sample.with_value(ca.reduce_sum(below, np.array([0], np.int32))).reshape(1), context)
        return found

    return call


def unet_ports(
    checkpoint: Checkpoint, options: CoreAIOptions, latents: tuple[int, int] | None = None
) -> tuple[tuple[TensorSpec, ...], TensorSpec]:
    """Inputs and output of the U-Net in the chosen layout, for latents of a height and width (None: the checkpoint's own)."""
    inputs = unet_inputs(checkpoint, "int32", latents)
    if options.layout == "coreai-models":
        sample, _, context = inputs
        inputs = (sample, tensor("timestep", sample.shape[:1]), context)
    return inputs, unet_output(checkpoint, latents)


def unet_weights(checkpoint: Checkpoint, options: CoreAIOptions) -> dict[str, EmittedWeight]:
    """The form of every quantized layer's weight.

    Raises:
        S2PError: a layer does not fit float16.
    """
    return {name: emitted_weight(layer, options) for name, layer in program_layers(checkpoint, options.form).items()}


def unet_layers(checkpoint: Checkpoint, options: CoreAIOptions) -> tuple[LayerSummary, ...]:
    """How each layer of the U-Net rests, in the order in which they run.

    Raises:
        S2PError: a layer does not fit float16.
    """
    return layer_summaries(checkpoint, unet_weights(checkpoint, options), options.half, options.quantizes_activations)


def chunk_ports(checkpoint: Checkpoint, options: CoreAIOptions) -> list[tuple[Chunk, list[TensorSpec], list[TensorSpec]]]:
    """The chunks with the ports of their programs. Tensors between programs have the programs' own precision.

    Raises:
        S2PError: the U-Net has fewer units than that.
    """
    ports, output = unet_ports(checkpoint, options)
    costs = {layer.name: layer.bytes for layer in unet_layers(checkpoint, options)}
    between: Dtype = "float16" if options.half else "float32"
    plan, by_name = planned_chunks(checkpoint, options.chunks, costs, ports, output, between)
    columns, of_prompt = table_columns(checkpoint, options), prompt_columns(checkpoint.structure)
    found = []
    for chunk in plan:
        names = chunk_inputs(chunk, SymbolTables.of_chunk(columns, of_prompt, chunk))
        found.append((chunk, [by_name[name] for name in names], [by_name[name] for name in chunk.outputs]))
    return found


def write_chunk(checkpoint: Checkpoint, options: CoreAIOptions, path: Path, number: int) -> None:
    """Write program ``number``, counted from 1, of a U-Net in several.

    Raises:
        S2PError: a layer does not fit float16.
    """
    chunk, inputs, outputs = chunk_ports(checkpoint, options)[number - 1]
    weights = unet_weights(checkpoint, options)
    writer = _Writer(checkpoint, options, weights)
    tables = SymbolTables.of_chunk(writer.columns, writer.of_prompt, chunk)
    module = UNetChunk(writer.unet, chunk, [port.name for port in inputs], tables)
    writer.write("main", module, inputs, outputs)
    writer.builder.save(path)
    held = {name: weight for name, weight in weights.items() if chunk.holds(name)}
    check_stored(path, held, None if tables is None else tables.matrix, options.half)
