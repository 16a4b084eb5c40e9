"""Every layer alone in Apple's runtime against plain arithmetic."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import Checkpoint, QuantizedLayer
from s2p_converters.core.graph import LayerSpec
from s2p_converters.core.packing import integer_range
from s2p_converters.targets.coreai.options import CoreAIOptions
from s2p_runtime.hosts.coreai.engine import Engine
from s2p_runtime.noise import gaussian
from s2p_runtime.pictures import relative_error

SIDE = 8
TOLERANCE = 1e-5
"""float32: sums of at most some thousand products, each rounded to 2^-24; errors of both signs leave a few units of 1e-7."""


def layer_input(layer: QuantizedLayer, shape: tuple[int, ...], call: int, stream: int) -> NDArray[np.float32]:
    """Values up to a little outside of the layer's range, none near the middle of two integers, where engines may differ."""
    noise = gaussian(3, shape, stream=stream).astype(np.float64)
    if layer.activation_scale is None:
        return noise.astype(np.float32)
    low, high = layer.activation_range
    steps = noise * (high - low) / 4
    whole = np.round(steps)
    return ((whole + 0.8 * (steps - whole)) * float(layer.activation_scale[call])).astype(np.float32)


def by_hand(layer: QuantizedLayer, x: NDArray[np.float32], call: int) -> NDArray[Any]:
    """The formula of docs/formats.md in float64, for x as the layer's own kind takes it."""
    values = x.astype(np.float64)
    if layer.activation_scale is not None:
        scale = float(layer.activation_scale[call])
        values = scale * np.clip(np.round(values / scale), *layer.activation_range)
    weight = layer.integers * layer.scale.astype(np.float64).reshape(-1, *([1] * (layer.integers.ndim - 1)))
    weight, tensor = torch.from_numpy(weight), torch.from_numpy(values)
    bias = None if layer.bias is None else torch.from_numpy(layer.bias).double()
    if layer.spec.kind == "linear":
        return F.linear(tensor, weight, bias).numpy()
    return F.conv2d(tensor, weight, bias, layer.spec.stride, layer.spec.padding).numpy()


@pytest.mark.parametrize("unit", ["gpu", "neural-engine"])
def test_every_layer(unit: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    run_layers(checkpoint, CoreAIOptions(precision="fp32", compute_unit=unit), tmp_path / "layers.aimodel")


WIDTHS = (2, 3, 4, 5, 6, 7, 8)
SHAPES = {
    "linear": LayerSpec("", "linear", 24, 10),
    "conv": LayerSpec("", "conv", 12, 10, kernel=3, stride=2, padding=1),
    "point": LayerSpec("", "conv", 24, 6, bias=False),
}
INPUTS = ((8, 0), (8, -37), (4, 0), (None, 0))
"""Bits of the inputs and the integer that stands for 0."""


def made_layer(name: str, shape: str, bits: int, inputs: tuple[int | None, int]) -> QuantizedLayer:
    """Random integers that reach both ends of their grid, scales over a factor of twenty."""
    spec, (activations, zero) = replace(SHAPES[shape], name=name), inputs
    random = np.random.default_rng([bits, zero + 128, *name.encode()])
    low, high = integer_range(bits)
    integers = random.integers(low, high + 1, spec.weight_shape).astype(np.int8)
    integers.flat[:2] = low, high
    bias = random.standard_normal(spec.out_channels).astype(np.float32) if spec.bias else None
    scales = np.array([0.01, 0.03, 0.2], np.float32) if activations is not None else None
    return QuantizedLayer(
        spec, bits, activations, integers, random.uniform(0.001, 0.02, spec.out_channels).astype(np.float16), bias, scales, zero
    )


@pytest.mark.parametrize("unit", ["gpu", "neural-engine"])
@pytest.mark.parametrize("weights", ["palette", "integers"])
def test_every_width_in_both_forms(weights: str, unit: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    layers = {
        name: made_layer(name, shape, bits, inputs)
        for bits in WIDTHS
        for shape, inputs in product(SHAPES, INPUTS)
        if (name := f"{shape}.w{bits}a{inputs[0]}z{inputs[1]}")
    }
    made = replace(checkpoint, layers=layers)
    options = CoreAIOptions(precision="fp32", compute_unit=unit, weights=weights)
    run_layers(made, options, tmp_path / "layers.aimodel")


def run_layers(checkpoint: Checkpoint, options: CoreAIOptions, path: Path) -> None:
    from s2p_converters.targets.coreai.builder import Builder
    from s2p_converters.targets.coreai.operators import ChannelsFirstOperators, CoreAIOperators
    from s2p_converters.targets.coreai.symbols import Symbol
    from s2p_converters.targets.coreai.unet import SymbolTables, program_layers, table_columns, unet_weights
    from s2p_converters.targets.ports import tensor

    builder, weights, call = Builder(False), unet_weights(checkpoint, options), 1
    kind = ChannelsFirstOperators if options.form == "channels-first" else CoreAIOperators
    operators = kind(builder, weights, checkpoint.floats, options)
    tables = SymbolTables(table_columns(checkpoint, options), {})
    layers = list(program_layers(checkpoint, options.form).values())
    given = [layer_input(layer, input_shape(layer), call, number) for number, layer in enumerate(layers)]
    wanted = [by_hand(layer, x, call) for layer, x in zip(layers, given, strict=True)]

    def body(step: Any, *samples: Any) -> list[Any]:
        row = tables(Symbol(builder, step))
        modules = [operators.layer(checkpoint.layers[layer.spec.name].spec) for layer in layers]
        return [module(Symbol(builder, sample), row).value for module, sample in zip(modules, samples, strict=True)]

    # One graph: every function of a program costs its own compilation.
    inputs = [tensor("step", (1,), "int32"), *(tensor(f"x{number}", x.shape) for number, x in enumerate(given))]
    builder.graph("main", inputs, [tensor(f"y{number}", y.shape) for number, y in enumerate(wanted)], body)
    builder.save(path)
    engine = Engine()
    engine.load("layers", path, "main")
    feeds = {"step": np.array([call], np.int32)} | {f"x{number}": x for number, x in enumerate(given)}
    found = engine.run("layers", "main", feeds)
    engine.close()
    for number, (layer, want) in enumerate(zip(layers, wanted, strict=True)):
        assert relative_error(found[f"y{number}"], want.astype(np.float32)) <= TOLERANCE, layer.spec.name


def input_shape(layer: QuantizedLayer) -> tuple[int, ...]:
    if layer.spec.kind == "linear":
        return (2, SIDE, layer.spec.in_channels)
    return (2, layer.spec.in_channels, SIDE, SIDE) if layer.spec.kernel > 1 else (2, layer.spec.in_channels, 1, SIDE)
