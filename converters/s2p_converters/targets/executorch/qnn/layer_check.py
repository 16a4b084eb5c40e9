"""One layer of each kind alone in Qualcomm's emulator against plain arithmetic in float64."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import Checkpoint, QuantizedLayer
from s2p_converters.targets.executorch.qnn.layers import (
    CUT,
    IntegerSymbolLayer,
    LayerGrids,
    StepwiseSymbolLayer,
    StoredWeight,
    holds_bias,
)
from s2p_converters.targets.executorch.qnn.onnx_graph import Grid, OnnxGraph
from s2p_converters.targets.executorch.qnn.symbols import Symbol
from s2p_converters.targets.executorch.qnn.unet import Form, stored_weights
from s2p_converters.targets.ports import tensor
from s2p_runtime.errors import CheckFailed
from s2p_runtime.hosts.executorch.qnn.engine import QnnEngine
from s2p_runtime.hosts.executorch.qnn.socs import Soc
from s2p_runtime.noise import gaussian

_SIDE, _TOKENS = 8, 64
_SEED = 2027
_CUTS = 3
"""Things that the chip cuts to multiples of 256 units: the sum over the lower bytes, the bias, and the zero point's part of
it."""
_HALF = 2.0**-11
"""Relative rounding error of float16."""


def kinds(layers: dict[str, QuantizedLayer], form: Form) -> list[str]:
    """Names of one layer of each kind: operator, kernel, stride, stored bits, bias, form of its input."""
    found: dict[Any, str] = {}
    for name, layer in layers.items():
        spec = layer.spec
        key = (spec.kind, spec.kernel, spec.stride, StoredWeight(layer).bits, layer.bias is not None, name in form.narrow)
        smallest = found.setdefault(key, name)
        if spec.weights < layers[smallest].spec.weights:
            found[key] = name
    return list(found.values())


def check_layers(checkpoint: Checkpoint, form: Form, soc: Soc) -> None:
    """Run one layer of each kind, the smallest.

    Raises:
        CheckFailed: a layer computes something else than its integers say.
        S2PError: it cannot be compiled or run.
    """
    weights, engine = stored_weights(checkpoint), QnnEngine()
    try:
        for name in kinds(checkpoint.layers, form):
            grids = form.narrow[name] if name in form.narrow else form.wide[name]
            worst = layer_error(checkpoint.layers[name], weights[name], grids, name in form.narrow, engine, soc)
            if not worst <= 1.0:
                raise CheckFailed(
                    f"layer {name} alone differs from plain arithmetic on {soc.name} ({worst:.1f} times what its grids explain)",
                    "please report the model and the options",
                )
    finally:
        engine.close()


def layer_error(
    layer: QuantizedLayer, weight: StoredWeight, grids: LayerGrids, stepwise: bool, engine: QnnEngine, soc: Soc
) -> float:
    """Largest difference between the compiled layer and float64, over what the rounding of its output explains.

    The layer has its own integers, scales and bias. Its input is noise on a grid whose scale is a power of two near its own, in
    numbers of 11 bits, so that the float16 of the program's input holds it exactly; the output's grid reaches as far as the exact
    outputs. What is left is the rounding of the output to its grid and to float16, of the bias where that is added in float16, and
    what the chip cuts away (:data:`.layers.CUT`).
    """
    spec = layer.spec
    shape = (1, _TOKENS, spec.in_channels) if spec.kind == "linear" else (1, spec.in_channels, _SIDE, _SIDE)
    own = _exact_grid(grids.input)
    x = _noise(shape, own)
    wanted, plain = _plain(layer, x)
    # Without the bias where that is added behind the grid; with it, both are the same.
    reach = plain if stepwise or layer.bias is None or not holds_bias(weight, own.scale) else wanted
    output = Grid.of_range(float(reach.min()), float(reach.max()), grids.output.bits)
    found = _emulated(weight, LayerGrids(own, output), stepwise, x, engine, soc)
    unit = own.scale * weight.scale.astype(np.float64).reshape((-1,) if spec.kind == "linear" else (-1, 1, 1))
    cut = 0.0 if stepwise else _CUTS * CUT * unit
    allowed = output.scale + cut + _HALF * (np.abs(wanted) + np.abs(plain))
    return float((np.abs(found - wanted) / allowed).max())


def _emulated(
    weight: StoredWeight, grids: LayerGrids, stepwise: bool, x: NDArray[np.float32], engine: QnnEngine, soc: Soc
) -> NDArray[np.float64]:
    """The layer's output as the chip computes it."""
    spec, inputs = weight.layer.spec, [tensor("x", x.shape)]
    spec = replace(spec, kind="linear") if x.ndim == 3 else spec
    with tempfile.TemporaryDirectory() as scratch:
        model, context = Path(scratch) / "layer.onnx", Path(scratch) / "layer.qnn"
        with OnnxGraph(model) as graph:
            one = Symbol(graph, graph.constant(np.ones((1, 1), np.float32)), (1, 1))
            row = {f"{spec.name}.{part}": one for part in ("inverse", "scale")}
            kind = StepwiseSymbolLayer if stepwise else IntegerSymbolLayer
            made = kind(spec, weight, grids)(Symbol(graph, graph.input(inputs[0]), x.shape), row)
            outputs = [tensor("y", made.shape)]
            graph.output(outputs[0], made.value)
        compiled = engine.compile(f"layer {spec.name}", model, context, soc, inputs)
        engine.load("layer", context, compiled.graph, soc, inputs, outputs)
        (found,) = engine.run("layer", {"x": x}).values()
    return found.astype(np.float64)


def _exact_grid(grid: Grid) -> Grid:
    """A grid like this one whose scale is a power of two that float16 can hold all steps of."""
    exponent = int(np.clip(np.round(np.log2(grid.scale)), -20, 0))
    return Grid(grid.bits, 2.0**exponent, grid.zero)


def _noise(shape: tuple[int, ...], grid: Grid) -> NDArray[np.float32]:
    """Noise over a grid, on its steps, in numbers of 11 bits."""
    steps = (1 << grid.bits) - 1
    spread = np.clip(gaussian(_SEED, shape).astype(np.float64) / 8 * steps, -grid.zero, steps - grid.zero)
    whole = np.trunc(np.round(spread).astype(np.float16).astype(np.float64))
    return (np.clip(whole, -grid.zero, steps - grid.zero).astype(np.float16).astype(np.float64) * grid.scale).astype(np.float32)


def _plain(layer: QuantizedLayer, x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The layer's output with and without its bias, float64."""
    scale = layer.scale.astype(np.float64).reshape(-1, *([1] * (layer.integers.ndim - 1)))
    weight = torch.from_numpy(layer.integers.astype(np.float64) * scale)
    plain = layer.spec.apply(torch.from_numpy(x.astype(np.float64)), weight)
    bias = None if layer.bias is None else torch.from_numpy(layer.bias.astype(np.float64))
    wanted = plain if bias is None else plain + (bias if layer.spec.kind == "linear" else bias[:, None, None])
    return wanted.numpy(), plain.numpy()
