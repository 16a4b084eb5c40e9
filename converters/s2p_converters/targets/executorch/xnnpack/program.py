"""Wraps subgraphs into .pte programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from s2p_converters.targets.executorch.xnnpack.subgraph import Subgraph
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
        anchor = inputs[0].flatten()[0]
        return tuple(torch.zeros(shape) + anchor for shape in self.shapes)


class _Delegate(nn.Module):
    """A subgraph with its constants, which lie in the program and outlive loading."""

    def __init__(self, lowered: nn.Module, constants: Sequence[Tensor]) -> None:
        super().__init__()
        self.lowered = lowered
        for place, constant in enumerate(constants):
            self.register_buffer(f"constant_{place}", constant)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self.lowered(*inputs, *self.buffers(recurse=False))
        return outputs


def delegate(subgraph: Subgraph) -> nn.Module:
    """A module that runs the subgraph on XNNPACK when it is part of a program (it computes nothing in eager torch)."""
    constants = [torch.tensor(array) for array in subgraph.constants]
    examples = (*(torch.zeros(shape) for shape in subgraph.input_shapes), *constants)
    with quiet_import():
        stand_in = torch.export.export(_Shapes(subgraph.output_shapes), examples)
        processed, named = subgraph.serialize()
        return _Delegate(LoweredBackendModule(stand_in, XNNPACK, processed, [], named), constants)


def build_program(methods: Mapping[str, tuple[nn.Module, tuple[Any, ...]]]) -> bytes:
    """A .pte with one method per (module, example inputs); constants that methods share are stored once."""
    with quiet_import():
        exported = {name: torch.export.export(module, inputs) for name, (module, inputs) in methods.items()}
        program = to_edge(exported).to_executorch(ExecutorchBackendConfig())
        return bytes(program.buffer)
