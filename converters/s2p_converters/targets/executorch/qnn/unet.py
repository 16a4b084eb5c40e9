"""The U-Net of a checkpoint as ONNX graphs: whole, or in chunks."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.graph import CutRow, StepUNet, prompt_columns
from s2p_converters.core.graph.splitting import Chunk, UNetChunk, chunk_inputs
from s2p_converters.core.reference import exact, load_floats, reciprocal_scale
from s2p_converters.targets.executorch.qnn.layers import (
    IntegerSymbolLayer,
    LayerGrids,
    StepwiseSymbolLayer,
    StoredWeight,
)
from s2p_converters.targets.executorch.qnn.onnx_graph import OnnxGraph
from s2p_converters.targets.executorch.qnn.operators import QnnOperators
from s2p_converters.targets.executorch.qnn.readback import STEP_TABLE, check_stored
from s2p_converters.targets.executorch.qnn.symbols import Symbol
from s2p_converters.targets.integer_programs import program_layers
from s2p_converters.targets.interface import planned_chunks, unet_inputs, unet_output
from s2p_converters.targets.traced import Columns, TracedTables, name_norms
from s2p_runtime.component import TensorSpec


class SymbolTables(TracedTables):
    """See :class:`TracedTables`."""

    def forward(self, step: Symbol, time_table: Symbol | None = None) -> Mapping[str, Symbol]:
        """Call index int32 [1], table float32 [B, T, K] -> columns [1, C] and [B, C]."""
        rows = []
        if self.matrix is not None:
            table = step.of(step.graph.constant(self.matrix, STEP_TABLE), self.matrix.shape)
            rows.append(CutRow(table.apply("Gather", step.value, axis=0, shape=(1, self.matrix.shape[1])), self.widths))
        if time_table is not None and self.of_prompt is not None:
            batch, _, width = time_table.shape
            # Calls first: along the second axis the chip gathers the first prompt's row and then none of the table's (seen in
            # Qualcomm's emulator, QAIRT 2.51).
            by_call = time_table.permute(1, 0, 2)
            row = by_call.apply("Gather", step.value, axis=0, shape=(1, batch, width)).reshape(batch, width)
            rows.append(CutRow(row, self.of_prompt))
        return ChainMap({}, *rows)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Form:
    """How the U-Net's layers are written.

    Attributes:
        wide: 16-bit grids of quantized layers.
        narrow: 8-bit grids, of layers that round their inputs by the checkpoint's scale of each call; they go before the others.
    """

    wide: Mapping[str, LayerGrids]
    narrow: Mapping[str, LayerGrids]


def stored_weights(checkpoint: Checkpoint) -> dict[str, StoredWeight]:
    """How every quantized layer's weight is written; all layers are convolutions."""
    return {name: StoredWeight(layer) for name, layer in program_layers(checkpoint, "channels-first").items()}


def table_columns(checkpoint: Checkpoint, form: Form) -> Columns:
    """Everything that depends on the call, [T, C] each: time rows unless the prompt brings them, then ``<layer>.inverse`` and
    ``<layer>.scale`` of layers with 8-bit inputs."""
    columns: Columns = {} if prompt_columns(checkpoint.structure) else dict(checkpoint.time_tables)
    for name in form.narrow:
        scale = checkpoint.layers[name].activation_scale
        assert scale is not None
        columns[f"{name}.inverse"] = reciprocal_scale(scale).astype(np.float32)[:, None]
        columns[f"{name}.scale"] = (scale * np.float32(2.0**7))[:, None]
    return columns


class UNetWriter:
    """Writes programs of one U-Net."""

    def __init__(self, checkpoint: Checkpoint, form: Form) -> None:
        self.checkpoint, self.form = checkpoint, form
        self.weights = stored_weights(checkpoint)
        self.columns, self.of_prompt = table_columns(checkpoint, form), prompt_columns(checkpoint.structure)
        self.tables = SymbolTables(self.columns, self.of_prompt)
        self.unet = StepUNet(checkpoint.structure, self.tables, QnnOperators(self._layers(), checkpoint.floats))
        load_floats(self.unet, checkpoint, exact)
        name_norms(self.unet)

    def _layers(self) -> dict[str, nn.Module]:
        specs = {spec.name: spec for spec in self.checkpoint.specs}
        found: dict[str, nn.Module] = {}
        for name, weight in self.weights.items():
            kind, grids = (
                (StepwiseSymbolLayer, self.form.narrow) if name in self.form.narrow else (IntegerSymbolLayer, self.form.wide)
            )
            found[name] = kind(specs[name], weight, grids[name])
        return found

    def whole(self, path: Path, latents: tuple[int, int] | None = None) -> tuple[tuple[TensorSpec, ...], TensorSpec]:
        """Write the whole U-Net for latents of a height and width (None: the checkpoint's own); returns inputs and output.

        Raises:
            CheckFailed: the file does not hold what it should.
        """
        inputs, output = unet_inputs(self.checkpoint, "int32", latents), unet_output(self.checkpoint, latents)
        self._write(path, self.unet, inputs, [output])
        check_stored(path, self.weights, self.tables.matrix)
        return inputs, output

    def chunks(self, count: int) -> list[tuple[Chunk, list[TensorSpec], list[TensorSpec]]]:
        """The U-Net in so many programs: each with its inputs and outputs.

        Raises:
            S2PError: the U-Net has fewer units than that.
        """
        checkpoint = self.checkpoint
        costs = {
            spec.name: self.weights[spec.name].stored_bytes if spec.name in self.weights else 2 * spec.weights
            for spec in checkpoint.specs
        }
        plan, by_name = planned_chunks(checkpoint, count, costs, unet_inputs(checkpoint, "int32"), unet_output(checkpoint))
        found = []
        for chunk in plan:
            names = chunk_inputs(chunk, self._tables(chunk))
            found.append((chunk, [by_name[name] for name in names], [by_name[name] for name in chunk.outputs]))
        return found

    def chunk(self, path: Path, chunk: Chunk, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        """Write one of :meth:`chunks`.

        Raises:
            CheckFailed: the file does not hold what it should.
        """
        tables = self._tables(chunk)
        self._write(path, UNetChunk(self.unet, chunk, [port.name for port in inputs], tables), inputs, outputs)
        held = {name: weight for name, weight in self.weights.items() if chunk.holds(name)}
        check_stored(path, held, None if tables is None else tables.matrix)

    def _tables(self, chunk: Chunk) -> SymbolTables | None:
        return SymbolTables.of_chunk(self.columns, self.of_prompt, chunk)

    def _write(
        self, path: Path, module: Callable[..., Any], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        """A file that computes a module of symbols."""
        with OnnxGraph(path) as graph, torch.no_grad():
            found = module(*(Symbol(graph, graph.input(port), port.shape) for port in inputs))
            for port, result in zip(outputs, found if isinstance(found, tuple) else (found,), strict=True):
                graph.output(port, result.value)
