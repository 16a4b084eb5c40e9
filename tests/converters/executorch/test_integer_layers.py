"""Integer layers alone, on the real runtime, against torch's own fake quantization in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2p_converters.core.checkpoint import QuantizedLayer
from s2p_converters.core.graph import CutRow, LayerSpec
from s2p_converters.targets.executorch.xnnpack import check
from s2p_converters.targets.executorch.xnnpack.inspection import check_integers, read_program
from s2p_converters.targets.executorch.xnnpack.operators import SILU_MINIMUM, Scheme, XnnpackOperators
from s2p_converters.targets.executorch.xnnpack.program import build_program, delegate
from s2p_converters.targets.executorch.xnnpack.subgraph import Subgraph
from s2p_converters.targets.executorch.xnnpack.symbols import Symbol, image_input, image_output
from s2p_converters.targets.executorch.xnnpack.unet import unet_columns
from s2p_runtime.errors import CheckFailed

SPECS = {
    "3x3": LayerSpec("layer", "conv", 10, 12, 3, 1, 1),
    "3x3 stride 2": LayerSpec("layer", "conv", 10, 12, 3, 2, 1),
    "1x1": LayerSpec("layer", "conv", 10, 12),
    "linear": LayerSpec("layer", "linear", 24, 17, bias=False),
    "gated linear": LayerSpec("block.ff.net.0.proj", "linear", 24, 32),
}


def random_layer(spec: LayerSpec, weight_bits: int = 8, activation_bits: int = 8, zero: int = 0) -> QuantizedLayer:
    rng = np.random.default_rng(5)
    top = 2 ** (weight_bits - 1)
    return QuantizedLayer(
        spec=spec,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        stored=rng.integers(-top, top, spec.weight_shape).astype(np.int8),
        scale=rng.uniform(0.001, 0.02, spec.out_channels).astype(np.float16),
        bias=rng.normal(size=spec.out_channels).astype(np.float32) if spec.bias else None,
        activation_scale=np.array([0.011, 0.3, 0.07], np.float32),
        activation_zero=zero,
    )


def fake_quantized(layer: QuantizedLayer, x: Tensor, step: int) -> Tensor:
    """torch's fake quantization of the input, then the layer in float64."""
    assert layer.activation_scale is not None and layer.activation_bits is not None
    top, scale = 2 ** (layer.activation_bits - 1), float(layer.activation_scale[step])
    rounded = torch.fake_quantize_per_tensor_affine(x, scale, layer.activation_zero, -top, top - 1).double()
    weight = torch.from_numpy(layer.integers.astype(np.float64))
    weight = weight * torch.from_numpy(layer.scale.astype(np.float64)).reshape(-1, *[1] * (weight.dim() - 1))
    return layer.spec.apply(rounded, weight, None if layer.bias is None else torch.from_numpy(layer.bias).double())


def safe_input(layer: QuantizedLayer, step: int, shape: tuple[int, ...]) -> Tensor:
    """Values at least a tenth of a grid step away from where rounding changes."""
    assert layer.activation_scale is not None
    generator = torch.Generator().manual_seed(step)
    integers = torch.randint(-200, 200, shape, generator=generator)
    offsets = torch.rand(shape, generator=generator) * 0.8 - 0.4
    return ((integers + offsets) * float(layer.activation_scale[step])).float()


class _Layer(nn.Module):
    def __init__(self, graph: Subgraph) -> None:
        super().__init__()
        self.subgraph = delegate(graph)

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        return self.subgraph(x, row)[0]


def layer_program(layer: QuantizedLayer, shape: tuple[int, ...], scheme: Scheme, prepare: str = "") -> tuple[bytes, np.ndarray]:
    """A .pte with one layer, and its step table."""
    name = layer.spec.name
    columns = unet_columns({}, {name: layer}, scheme)
    table = np.concatenate(list(columns.values()), axis=1) if columns else np.zeros((3, 1), np.float32)
    graph = Subgraph([name])
    # A static layer's output range: its largest possible output, so that nothing saturates.
    peak = float(np.abs(layer.integers.astype(np.float64)).reshape(len(layer.integers), -1).sum(1).max()) * 256
    scales = {name: peak * float(layer.scale.max()) / 127}
    operators = XnnpackOperators(graph, {name: layer}, {}, scheme, scales)
    is_image = layer.spec.kind == "conv"
    x = image_input(graph, shape) if is_image else Symbol(graph, graph.input(shape), False)
    row = Symbol(graph, graph.input((1, table.shape[1])), False)
    if prepare == "upsample":
        x = operators.upsample(x)
    elif prepare == "silu":
        x = operators.silu(x)
    elif prepare == "pad":
        x = F.pad(x, (0, 1, 0, 1))
    elif prepare == "concatenate":
        x = torch.cat([x, x], dim=1)
    out = operators.layer(layer.spec)(x, CutRow(row, {key: column.shape[1] for key, column in columns.items()}))
    if is_image:
        image_output(out)
    else:
        graph.output(out.settle().value)
    return build_program({"forward": (_Layer(graph), (torch.zeros(shape), torch.zeros(1, table.shape[1])))}), table


def run_layer(data: bytes, table: np.ndarray, x: Tensor, step: int) -> Tensor:
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(data)
    return program.load_method("forward").execute([x, torch.from_numpy(table[step : step + 1])])[0].clone()


def shape_of(spec: LayerSpec) -> tuple[int, ...]:
    return (2, 5, spec.in_channels) if spec.kind == "linear" else (2, spec.in_channels, 6, 6)


@pytest.mark.parametrize("bits", [(8, 8), (4, 8), (4, 6)], ids=["W8A8", "W4A8", "W4A6"])
@pytest.mark.parametrize("kind", SPECS)
def test_pinned_layer_equals_fake_quantization_at_every_step(kind: str, bits: tuple[int, int]) -> None:
    layer = random_layer(SPECS[kind], *bits)
    shape = shape_of(layer.spec)
    data, table = layer_program(layer, shape, "pinned")
    for step in (0, 1, 2):
        x = safe_input(layer, step, shape)
        want = fake_quantized(layer, x, step)
        # Integer accumulators are exact; the scale, its two products and the bias round, see check.TOLERANCE.
        assert (run_layer(data, table, x, step) - want).abs().max() <= check.TOLERANCE * want.abs().max()


@pytest.mark.parametrize(("bits", "zero"), [(8, -128), (8, -103), (8, 127), (6, -32), (6, 11), (2, 1)])
@pytest.mark.parametrize("kind", ["3x3", "linear"])
def test_pinned_layer_with_a_zero_point(kind: str, bits: int, zero: int) -> None:
    layer = random_layer(SPECS[kind], 4, bits, zero)
    shape = shape_of(layer.spec)
    data, table = layer_program(layer, shape, "pinned")
    for step in (0, 1, 2):
        x = safe_input(layer, step, shape) * 1.3
        x = torch.where((x / layer.activation_scale[step] % 1 - 0.5).abs() < 0.1, torch.zeros(()), x)  # type: ignore[index]
        want = fake_quantized(layer, x, step)
        assert (run_layer(data, table, x, step) - want).abs().max() <= check.TOLERANCE * want.abs().max()


@pytest.mark.parametrize("prepare", ["upsample", "pad", "concatenate"])
def test_pinned_convolution_behind_what_was_left_pending(prepare: str) -> None:
    inputs = 20 if prepare == "concatenate" else 10
    layer = random_layer(LayerSpec("layer", "conv", inputs, 12, 3, 2 if prepare == "pad" else 1, 0 if prepare == "pad" else 1))
    shape = (2, 10, 6, 6)
    data, table = layer_program(layer, shape, "pinned", prepare)
    x = safe_input(layer, 1, shape)
    prepared = {
        "upsample": lambda: F.interpolate(x, scale_factor=2.0, mode="nearest"),
        "pad": lambda: F.pad(x, (0, 1, 0, 1)),
        "concatenate": lambda: torch.cat([x, x], dim=1),
    }[prepare]()
    want = fake_quantized(layer, prepared, 1)
    assert (run_layer(data, table, x, 1) - want).abs().max() <= check.TOLERANCE * want.abs().max()


@pytest.mark.parametrize("zero", [0, -110])
@pytest.mark.parametrize("scale", [0.5, 0.001], ids=["range reaches below SiLU's minimum", "range ends above it"])
def test_pinned_convolution_behind_silu_clamps_both_ends(scale: float, zero: int) -> None:
    layer = random_layer(SPECS["1x1"], zero=zero)
    layer = QuantizedLayer(**{**vars(layer), "activation_scale": np.full(3, scale, np.float32)})
    shape = (1, 10, 32, 32)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3
    want = fake_quantized(layer, F.silu(x), 0)
    data, table = layer_program(layer, shape, "pinned", "silu")
    difference = (run_layer(data, table, x, 0) - want).abs()
    # SiLU is inexact, so a value in 2^16 or so may round to the other side: one grid step times one weight in few outputs.
    flip = scale * float(layer.scale.max()) * 128
    assert difference.max() <= 2 * flip and (difference > check.TOLERANCE * want.abs().max()).float().mean() < 0.01
    assert F.silu(x).min() >= SILU_MINIMUM - 1e-6


@pytest.mark.parametrize("zero", [0, -60])
@pytest.mark.parametrize("kind", SPECS)
def test_static_layer_is_within_its_output_grid(kind: str, zero: int) -> None:
    layer = random_layer(SPECS[kind], zero=zero)
    shape = shape_of(layer.spec)
    data, table = layer_program(layer, shape, "static")
    x = safe_input(layer, 2, shape)
    peak = np.abs(layer.integers.astype(np.float64)).reshape(len(layer.integers), -1).sum(1).max() * 256
    step = peak * float(layer.scale.max()) / 127 * float(layer.activation_scale[2])  # type: ignore[index]
    # Rounding to the nearest output value: half a step, and float32 rounding around it.
    assert (run_layer(data, table, x, 2) - fake_quantized(layer, x, 2)).abs().max() <= 0.5001 * step


def test_dynamic_layer_uses_the_range_at_hand() -> None:
    layer = random_layer(SPECS["3x3"])
    shape = shape_of(layer.spec)
    data, table = layer_program(layer, shape, "dynamic")
    x = torch.randn(shape)
    weight = torch.from_numpy(layer.integers.astype(np.float64) * layer.scale.astype(np.float64)[:, None, None, None])
    want = layer.spec.apply(x.double(), weight, torch.from_numpy(layer.bias).double())  # type: ignore[arg-type]
    step = (x.amax((1, 2, 3)) - x.amin((1, 2, 3))).max().double() / 255
    bound = step * weight.abs().sum((1, 2, 3)).max()  # at most one step off in every input (scale and zero point both round)
    assert (run_layer(data, table, x, 0) - want).abs().max() <= bound


def test_datatypes_and_integers_are_read_back_from_the_file() -> None:
    layer = random_layer(SPECS["gated linear"], 4)
    name = layer.spec.name
    data, _ = layer_program(layer, shape_of(layer.spec), "pinned")
    summary = read_program(data)
    assert summary.delegates == ("XnnpackBackend",) and not summary.operators
    assert [node.datatypes for node in summary.layers] == [("qdint8", "qcint4", "fp32")] * 2
    check_integers(summary, [name], {name: layer}, "pinned")
    other = QuantizedLayer(**{**vars(layer), "stored": np.where(layer.integers == 3, 2, layer.integers).astype(np.int8)})
    with pytest.raises(CheckFailed, match="holds other integers"):
        check_integers(summary, [name], {name: other}, "pinned")
    with pytest.raises(CheckFailed, match="instead of qint8"):
        check_integers(summary, [name], {name: layer}, "static")


def test_self_check_finds_a_layer_that_computes_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = {name: random_layer(LayerSpec(name, "conv", 6, 8, 3, 1, 1)) for name in ("first", "second")}
    check.self_check(layers, 3)
    emit = check.IntegerSymbolLayer

    def wrong(layer: QuantizedLayer, operators: XnnpackOperators) -> nn.Module:
        if layer.spec.name == "second":
            layer = QuantizedLayer(**{**vars(layer), "scale": (layer.scale * np.float16(1.01)).astype(np.float16)})
        return emit(layer, operators)

    monkeypatch.setattr(check, "IntegerSymbolLayer", wrong)
    with pytest.raises(CheckFailed, match="second"):
        check.self_check(layers, 3)
