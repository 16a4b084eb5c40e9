"""The self-check at conversion: every integer layer, alone, on the real runtime against plain arithmetic in float64.

End to end a wrong layer can hide: rounding is chaotic, so two correct programs differ after some layers by as much as the
quantization noise itself. Alone, on inputs whose rounding is certain, a layer must agree to float32 accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from s2p_converters.core.checkpoint import QuantizedLayer
from s2p_converters.core.graph import CutRow
from s2p_converters.targets.executorch.xnnpack.operators import IntegerSymbolLayer, XnnpackOperators
from s2p_converters.targets.executorch.xnnpack.program import build_program, delegate
from s2p_converters.targets.executorch.xnnpack.scheme import Scheme
from s2p_converters.targets.executorch.xnnpack.subgraph import Subgraph, Value
from s2p_converters.targets.executorch.xnnpack.symbols import Symbol
from s2p_converters.targets.executorch.xnnpack.unet import unet_columns
from s2p_runtime.errors import CheckFailed
from s2p_runtime.quiet import quiet_import

TOLERANCE = 2.0**-18
"""Largest allowed error over largest output. The accumulators are exact integers; what rounds in float32 is the run-time scale
(three operations), its product with the weight scale, the product with the accumulator and the bias: below 16 roundings of
2^-24, times 4 for outputs that are smaller than the terms they are the difference of."""

_SIZE = 5
_TOKENS = 6
_CHUNK = 64
"""Layers in one program: bounds the memory of a check of a large network."""


def _input_shape(layer: QuantizedLayer) -> tuple[int, ...]:
    channels = layer.spec.in_channels
    return (2, _TOKENS, channels) if layer.spec.kind == "linear" else (2, channels, _SIZE, _SIZE)


def certain_input(layer: QuantizedLayer, step: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """An input at 0.3 grid steps around random integers, some of them far outside of the range, and its integers.

    Returns:
        float32 and int64 of shape [2, C, H, W] or [2, N, C].
    """
    assert layer.activation_scale is not None
    low, high = layer.activation_range
    shape = _input_shape(layer)
    integers = rng.integers(2 * low, 2 * high, shape)
    x = (integers + rng.uniform(-0.3, 0.3, shape)) * float(layer.activation_scale[step])
    return x.astype(np.float32), np.clip(integers, low, high)


def expected_output(layer: QuantizedLayer, step: int, integers: NDArray[np.int64]) -> NDArray[np.float64]:
    """The layer's output for integer activations, in float64, in XNNPACK's layout ([2, H, W, O] or [2, N, O])."""
    assert layer.activation_scale is not None
    weight = torch.from_numpy(layer.integers.astype(np.float64))
    y = layer.spec.apply(torch.from_numpy(integers.astype(np.float64)), weight)
    y = y if layer.spec.kind == "linear" else y.permute(0, 2, 3, 1)
    y = y * torch.from_numpy(layer.scale.astype(np.float64)) * float(layer.activation_scale[step])
    out: NDArray[np.float64] = y.numpy()
    return out if layer.bias is None else out + layer.bias.astype(np.float64)


class _Flat(nn.Module):
    """Many layers in one program with one flat input and one flat output: tracing a program costs time per input."""

    def __init__(self, graph: Subgraph) -> None:
        super().__init__()
        self.subgraph = delegate(graph)

    def forward(self, flat: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.subgraph(flat)[0]
        return out


def _join(graph: Subgraph, parts: Sequence[Value]) -> Value:
    """Flat values [1, n] one behind the other."""
    parts = list(parts)
    while len(parts) > 1:
        groups = [parts[start : start + 5] for start in range(0, len(parts), 5)]
        parts = [graph.concatenate(group, 1) if len(group) > 1 else group[0] for group in groups]
    return parts[0]


def layer_errors(
    layers: Mapping[str, QuantizedLayer], scheme: Scheme, steps: Sequence[int], output_scales: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Largest error over largest output of each layer, alone, on the ExecuTorch runtime, over some calls of the plan.

    The expected output is that of the layer without output rounding, which the static scheme adds.
    """
    errors: dict[str, float] = {}
    names = list(layers)
    for start in range(0, len(names), _CHUNK):
        part = {name: layers[name] for name in names[start : start + _CHUNK]}
        errors.update(_chunk_errors(part, scheme, steps, output_scales or {}))
    return errors


def _flat_graph(
    layers: Mapping[str, QuantizedLayer], scheme: Scheme, widths: Mapping[str, int], output_scales: Mapping[str, float]
) -> Subgraph:
    """Input: the table row, then each layer's input. Output: each layer's output in XNNPACK's layout."""
    shapes = {name: _input_shape(layer) for name, layer in layers.items()}
    start = sum(widths.values())
    graph = Subgraph(list(layers))
    operators = XnnpackOperators(graph, layers, {}, scheme, output_scales)
    source = graph.input((1, start + sum(math.prod(shape) for shape in shapes.values())))
    row = CutRow(Symbol(graph, source, False), widths)
    outputs = []
    for name, layer in layers.items():
        size = math.prod(shapes[name])
        value = graph.reshape(graph.slice(source, 1, start, size), shapes[name])
        start += size
        is_image = layer.spec.kind == "conv"
        symbol = Symbol(graph, graph.transpose(value, (0, 2, 3, 1)) if is_image else value, is_image)
        out: Symbol = IntegerSymbolLayer(layer, operators)(symbol, row)
        settled = out.settle().value
        outputs.append(graph.reshape(settled, (1, math.prod(settled.shape))))
    graph.output(_join(graph, outputs))
    return graph


def _chunk_errors(
    layers: Mapping[str, QuantizedLayer], scheme: Scheme, steps: Sequence[int], output_scales: Mapping[str, float]
) -> dict[str, float]:
    with quiet_import():
        from executorch.runtime import Runtime

    columns = unet_columns({}, layers, scheme)
    graph = _flat_graph(layers, scheme, {name: column.shape[1] for name, column in columns.items()}, output_scales)
    data = build_program({"forward": (_Flat(graph), (torch.zeros(graph.input_shapes[0]),))})
    errors = dict.fromkeys(layers, 0.0)
    for step in steps:
        rng = np.random.default_rng(step)
        inputs = {name: certain_input(layer, step, rng) for name, layer in layers.items()}
        row = [column[step] for column in columns.values()]
        flat = torch.from_numpy(np.concatenate([*row, *(x.reshape(-1) for x, _ in inputs.values())])[None])
        with quiet_import():
            program = Runtime.get().load_program(data)
            got = program.load_method("forward").execute([flat])[0].numpy().reshape(-1).astype(np.float64)
        start = 0
        for name, layer in layers.items():
            want = expected_output(layer, step, inputs[name][1]).reshape(-1)
            difference = np.abs(got[start : start + want.size] - want).max()
            errors[name] = max(errors[name], float(difference / np.abs(want).max()))
            start += want.size
    return errors


def self_check(layers: Mapping[str, QuantizedLayer], steps: int) -> None:
    """Run every pinned integer layer alone at the first and the last call.

    Raises:
        CheckFailed: a layer is further from plain arithmetic than float32 rounding explains.
    """
    for name, error in layer_errors(layers, "pinned", sorted({0, steps - 1})).items():
        if not error <= TOLERANCE:
            raise CheckFailed(
                f"layer {name} computes something else on ExecuTorch (relative error {error:.1e})",
                "report this as a fault of the converter",
            )
