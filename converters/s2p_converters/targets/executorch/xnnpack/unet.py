"""The U-Net of a checkpoint as one XNNPACK subgraph behind one table lookup."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from s2p_converters.core.checkpoint import QuantizedLayer
from s2p_converters.core.graph import CutRow, StepUNet, UNetStructure, layer_specs
from s2p_converters.targets.executorch.xnnpack.operators import XnnpackOperators, activation_columns
from s2p_converters.targets.executorch.xnnpack.program import delegate
from s2p_converters.targets.executorch.xnnpack.scheme import Scheme
from s2p_converters.targets.executorch.xnnpack.subgraph import NamedDataStore, Subgraph
from s2p_converters.targets.executorch.xnnpack.symbols import Symbol, image_input, image_output

Columns = dict[str, NDArray[np.float32]]


class SymbolTables(nn.Module):
    """Takes the row itself where a float graph takes the step: the lookup happens outside the subgraph."""

    def __init__(self, widths: Mapping[str, int], of_prompt: Mapping[str, int] | None = None) -> None:
        """
        Args:
            widths: columns that all prompts share.
            of_prompt: columns of the prompt's time table, [B, K], which then is a further input (SDXL).
        """
        super().__init__()
        self.widths, self.of_prompt = dict(widths), dict(of_prompt or {})

    def forward(self, row: Symbol, time_row: Symbol | None = None) -> Mapping[str, Symbol]:
        common = CutRow(row, self.widths)
        return common if time_row is None else ChainMap({}, common, CutRow(time_row, self.of_prompt))  # type: ignore[arg-type]


def unet_columns(
    time_tables: Mapping[str, NDArray[np.float32]], layers: Mapping[str, QuantizedLayer], scheme: Scheme
) -> Columns:
    """Columns of the merged step table, float32 [T, n] each."""
    columns: Columns = dict(time_tables)
    for name, layer in layers.items():
        columns.update({f"{name}.{suffix}": column for suffix, column in activation_columns(layer, scheme).items()})
    return columns


def symbol_unet(structure: UNetStructure, tables: nn.Module, operators: XnnpackOperators) -> StepUNet:
    """The graph that writes itself into the operators' subgraph when it runs on symbols."""
    unet = StepUNet(structure, tables, operators)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            parameter.copy_(torch.from_numpy(np.asarray(operators.floats[name], np.float32)))
    return unet


def unet_subgraph(
    structure: UNetStructure,
    layers: Mapping[str, QuantizedLayer],
    floats: Mapping[str, NDArray[np.float32]],
    columns: Columns,
    sample: tuple[int, int, int, int],
    context: tuple[int, int, int],
    scheme: Scheme,
    output_scales: Mapping[str, float] | None = None,
    store: NamedDataStore | None = None,
    of_prompt: Mapping[str, int] | None = None,
) -> Subgraph:
    """The U-Net with inputs sample [B, C, H, W], encoder_hidden_states [B, N, D] and row [1, sum of columns]; with ``of_prompt``,
    columns of the prompt's time table by name, also its row [B, sum of these]."""
    graph = Subgraph([spec.name for spec in layer_specs(structure)], store)
    widths = {name: column.shape[1] for name, column in columns.items()}
    operators = XnnpackOperators(graph, layers, floats, scheme, output_scales)
    unet = symbol_unet(structure, SymbolTables(widths, of_prompt), operators)
    x = image_input(graph, sample)
    tokens = Symbol(graph, graph.input(context), False)
    row = Symbol(graph, graph.input((1, sum(widths.values()))), False)
    time_row = Symbol(graph, graph.input((sample[0], sum(of_prompt.values()))), False) if of_prompt else None
    out: Symbol = unet(x, row, tokens, time_row)
    image_output(out)
    return graph


class UNetProgram(nn.Module):
    """One ``index_select`` on the merged table, then the subgraph."""

    table: Tensor

    def __init__(self, columns: Columns, graph: Subgraph) -> None:
        super().__init__()
        self.register_buffer("table", torch.from_numpy(np.concatenate(list(columns.values()), axis=1)))
        self.subgraph = delegate(graph)

    def forward(self, sample: Tensor, step: Tensor, encoder_hidden_states: Tensor, *time_table: Tensor) -> Tensor:
        """sample [B, C, H, W], step int64 [1], encoder_hidden_states [B, N, D], with SDXL time_table [B, T, K] -> noise_pred
        [B, C, H, W]."""
        rows = [self.table.index_select(0, step), *(prompt_row(table, step) for table in time_table)]
        out: Tensor = self.subgraph(sample, encoder_hidden_states, *rows)[0]
        return out


def prompt_row(time_table: Tensor, step: Tensor) -> Tensor:
    """The row of a prompt's time table for a call: [B, T, K], int64 [1] -> [B, K]."""
    return time_table.index_select(1, step).squeeze(1)
