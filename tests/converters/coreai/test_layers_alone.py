"""Every layer alone in Apple's runtime against plain arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import Checkpoint, QuantizedLayer
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


@pytest.mark.parametrize(("bits", "activations"), [(2, 8), (3, 8), (6, 8), (8, 4), (4, None)])
def test_other_widths(bits: int, activations: int | None, make_checkpoint: Any, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(weight_bits=bits, activation_bits=activations, mixed=False)
    run_layers(checkpoint, CoreAIOptions(precision="fp32"), tmp_path / "layers.aimodel")


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
    layers, feeds = list(program_layers(checkpoint, options.form).values()), []
    for number, layer in enumerate(layers):
        spec, step = layer.spec, tensor("step", (1,), "int32")
        x = layer_input(layer, input_shape(layer), call, number)
        y = by_hand(layer, x, call)
        module = operators.layer(checkpoint.layers[spec.name].spec)

        def body(sample: Any, index: Any, module: Any = module) -> list[Any]:
            operators.begin()
            return [module(Symbol(builder, sample), tables(Symbol(builder, index))).value]

        builder.graph(f"layer_{number}", [tensor("x", x.shape), step], [tensor("y", y.shape)], body)
        feeds.append((x, y))
    builder.save(path)
    engine = Engine()
    for number, (layer, (x, want)) in enumerate(zip(layers, feeds, strict=True)):
        engine.load("layers", path, f"layer_{number}")
        found = engine.run("layers", f"layer_{number}", {"x": x, "step": np.array([call], np.int32)})["y"]
        assert relative_error(found, want.astype(np.float32)) <= TOLERANCE, layer.spec.name
    engine.close()


def input_shape(layer: QuantizedLayer) -> tuple[int, ...]:
    if layer.spec.kind == "linear":
        return (2, SIDE, layer.spec.in_channels)
    return (2, layer.spec.in_channels, SIDE, SIDE) if layer.spec.kernel > 1 else (2, layer.spec.in_channels, 1, SIDE)
