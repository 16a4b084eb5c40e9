"""Wraps subgraphs into .pte programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from s2p_converters.executorch.subgraph import Subgraph
from s2p_runtime.quiet import quiet_import

with quiet_import():
    from executorch.exir import ExecutorchBackendConfig, to_edge
    from executorch.exir.lowered_backend_module import LoweredBackendModule

XNNPACK = "XnnpackBackend"


class _Shapes(nn.Module):
    """Stands for the subgraph while a program is traced: the same inputs, outputs of the same shapes, no meaning."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.shapes = list(shapes)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        anchor = sum(x.flatten()[0] for x in inputs)
        return tuple(torch.zeros(shape) + anchor for shape in self.shapes)


def delegate(subgraph: Subgraph) -> nn.Module:
    """A module that runs the subgraph on XNNPACK when it is part of a program (it computes nothing in eager torch)."""
    examples = tuple(torch.zeros(shape) for shape in subgraph.input_shapes)
    with quiet_import():
        stand_in = to_edge(torch.export.export(_Shapes(subgraph.output_shapes), examples)).exported_program()
        processed, named = subgraph.serialize()
        module: nn.Module = LoweredBackendModule(stand_in, XNNPACK, processed, [], named)
    return module


def build_program(methods: Mapping[str, tuple[nn.Module, tuple[Any, ...]]]) -> bytes:
    """A .pte with one method per (module, example inputs); constants that methods share are stored once."""
    with quiet_import():
        exported = {name: torch.export.export(module, inputs) for name, (module, inputs) in methods.items()}
        program = to_edge(exported).to_executorch(ExecutorchBackendConfig())
        return bytes(program.buffer)
