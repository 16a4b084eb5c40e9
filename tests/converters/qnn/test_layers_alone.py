"""Stored numbers read back, and a layer of each kind alone in the emulator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from s2p_converters.core.checkpoint import Checkpoint, QuantizedLayer
from s2p_converters.core.graph import LayerSpec
from s2p_converters.targets.executorch.qnn.layer_check import kinds, layer_error
from s2p_converters.targets.executorch.qnn.layers import IntegerSymbolLayer, LayerGrids, StoredWeight
from s2p_converters.targets.executorch.qnn.onnx_graph import Grid, OnnxGraph
from s2p_converters.targets.executorch.qnn.operators import QnnOperators
from s2p_converters.targets.executorch.qnn.readback import check_stored
from s2p_converters.targets.executorch.qnn.symbols import Symbol
from s2p_converters.targets.executorch.qnn.unet import Form, UNetWriter, stored_weights
from s2p_converters.targets.ports import tensor
from s2p_runtime.errors import CheckFailed, S2PError
from s2p_runtime.hosts.executorch.delegates import RUNNABLE
from s2p_runtime.hosts.executorch.qnn.engine import QnnEngine
from s2p_runtime.hosts.executorch.qnn.socs import SOCS
from s2p_runtime.noise import gaussian
from s2p_runtime.pictures import relative_error

WIDE = LayerGrids(Grid(16, 2.0**-11, 30000), Grid(16, 2.0**-9, 30000))
NARROW = LayerGrids(Grid(8, 2.0**-7, 128), Grid(8, 2.0**-4, 128))


def layer(
    bits: int, kind: str = "conv", kernel: int = 3, stride: int = 1, bias: bool = True, large_bias: bool = False
) -> QuantizedLayer:
    spec = LayerSpec("layer", kind, 24, 32, kernel, stride, kernel // 2, bias)  # type: ignore[arg-type]
    random = np.random.default_rng(bits)
    integers = random.integers(-(1 << (bits - 1)), 1 << (bits - 1), spec.weight_shape).astype(np.int8)
    scale = (random.uniform(0.5, 2.0, 32) * 2.0 ** (1 - bits) / 10).astype(np.float16)
    shift = random.standard_normal(32).astype(np.float32)
    if large_bias:
        scale[3], shift[3] = np.float16(1e-4), 100.0  # beyond the chip's 32-bit sums
    return QuantizedLayer(spec, bits, 8, integers, scale, shift if bias else None, None)


CASES = {
    "2 bits": (layer(2), False),
    "3 bits": (layer(3), False),
    "4 bits": (layer(4), False),
    "5 bits": (layer(5), False),
    "6 bits, stride": (layer(6, stride=2), False),
    "7 bits, linear": (layer(7, "linear", 1), False),
    "8 bits, pointwise": (layer(8, kernel=1), False),
    "4 bits, linear": (layer(4, "linear", 1), False),
    "8 bits, linear, no bias": (layer(8, "linear", 1, bias=False), False),
    "4 bits, a bias beyond the sums": (layer(4, large_bias=True), False),
    "4 bits, 8-bit activations": (layer(4), True),
}


def as_stored(one: QuantizedLayer) -> StoredWeight:
    return StoredWeight(one.as_convolution())


@pytest.mark.parametrize("case", CASES)
def test_a_layer_alone_is_its_integers(case: str, engine: QnnEngine) -> None:
    one, stepwise = CASES[case]
    grids = NARROW if stepwise else WIDE
    assert layer_error(one, as_stored(one), grids, stepwise, engine, SOCS["SM8650"]) <= 1.0


def test_a_linear_layer_behind_a_group_norm(engine: QnnEngine, tmp_path: Path) -> None:
    """ONNX Runtime knows no shape behind a GroupNorm but the one it is told, and moves the layer's rounding there: before it is
    turned into tokens. Models that project linearly, as SD 2 and SDXL, have this in every transformer."""
    one, port = layer(4, "linear", 1), tensor("x", (1, 24, 4, 4))
    norm = nn.GroupNorm(4, 24)
    norm.s2p_name = "norm"  # type: ignore[assignment]
    x = gaussian(1, port.shape)
    wanted = norm(torch.from_numpy(x)).detach().flatten(2).transpose(1, 2).double().numpy() @ weight_of(one).T + one.bias
    grids = LayerGrids(Grid.of_range(-5, 5, 16), Grid.of_range(2 * wanted.min(), 2 * wanted.max(), 16))
    with OnnxGraph(tmp_path / "m.onnx") as graph:
        write = QnnOperators({}, {})
        tokens = write.tokens(write.group_norm(Symbol(graph, graph.input(port), port.shape), norm))
        made = IntegerSymbolLayer(one.spec, as_stored(one), grids)(tokens, {})
        graph.output(tensor("y", made.shape), made.value)
    kinds_written = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert kinds_written.index("QuantizeLinear") < kinds_written.index("Transpose"), "and nothing is left of moved floats"
    compiled = engine.compile("it", tmp_path / "m.onnx", tmp_path / "m.qnn", SOCS["SM8650"], [port])
    engine.load("it", tmp_path / "m.qnn", compiled.graph, SOCS["SM8650"], [port], [tensor("y", made.shape)])
    (found,) = engine.run("it", {"x": x}).values()
    assert relative_error(found, wanted) < RUNNABLE["qnn"].tolerance("unet")


def weight_of(one: QuantizedLayer) -> np.ndarray:
    """[C_out, C_in], float64."""
    return one.integers.astype(np.float64) * one.scale.astype(np.float64)[:, None]


def test_a_channel_of_zeros_is_zero_whatever_its_scale(engine: QnnEngine) -> None:
    """Scales that the chip cannot multiply by do not matter there; where they do, the layer is refused."""
    one = layer(4)
    scale, integers = one.scale.copy(), one.integers.copy()
    scale[3] = np.float16(6e-8)
    with pytest.raises(S2PError, match=r"layer layer has a channel scale of 6\.0e-08, too small for the chip"):
        IntegerSymbolLayer(one.spec, as_stored(replace(one, scale=scale)), WIDE)
    integers[3] = 0
    zeros = replace(one, scale=scale, stored=integers)
    assert layer_error(zeros, as_stored(zeros), WIDE, False, engine, SOCS["SM8650"]) <= 1.0


def test_one_integer_that_is_another_shows(engine: QnnEngine) -> None:
    one = layer(4)
    other = one.integers.copy()
    other[5, 7, 1, 1] ^= 1
    spoilt = as_stored(replace(one, stored=other))
    assert layer_error(one, spoilt, WIDE, False, engine, SOCS["SM8650"]) > 1.0


def test_every_kind_of_layer_has_one_that_is_checked(checkpoint: Checkpoint) -> None:
    found = {
        (checkpoint.layers[name].spec.kind, checkpoint.layers[name].spec.kernel)
        for name in kinds(checkpoint.layers, Form({}, {}))
    }
    assert found == {(each.spec.kind, each.spec.kernel) for each in checkpoint.layers.values()}


@pytest.fixture(scope="module")
def written(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, UNetWriter]:
    grids = dict.fromkeys(checkpoint.layers, WIDE)
    writer = UNetWriter(checkpoint, Form(grids, {}))
    path = tmp_path_factory.mktemp("models") / "unet.onnx"
    writer.whole(path)
    return path, writer


def test_the_model_holds_the_checkpoints_numbers(checkpoint: Checkpoint, written: tuple[Path, UNetWriter]) -> None:
    """Read by onnx, against the checkpoint itself: integers times scale are the same reals, and integers of 4 bits rest in 4."""
    stored = {tensor.name: tensor for tensor in onnx.load(written[0]).graph.initializer}
    for name, one in checkpoint.layers.items():
        place = stored[f"{name}.weight"]
        assert place.data_type == (onnx.TensorProto.INT4 if one.weight_bits <= 4 else onnx.TensorProto.INT8)
        integers = numpy_helper.to_array(place).astype(np.float64).reshape(one.spec.out_channels, -1)
        scale = numpy_helper.to_array(stored[f"{name}.weight_scale"]).astype(np.float64)[:, None]
        wanted = one.integers.reshape(one.spec.out_channels, -1).astype(np.float64) * one.scale.astype(np.float64)[:, None]
        assert np.array_equal(integers * scale, wanted)
    tables = np.concatenate([checkpoint.time_tables[name] for name in checkpoint.time_tables], axis=1)
    assert np.array_equal(numpy_helper.to_array(stored["step_table"]), tables)


def gathers(path: Path) -> list[str]:
    """What the Gather nodes of a model look up, each time that they do."""
    return [node.input[0] for node in onnx.load(path, load_external_data=False).graph.node if node.op_type == "Gather"]


def test_what_depends_on_the_call_is_looked_up_once(
    checkpoint: Checkpoint, written: tuple[Path, UNetWriter], tmp_path: Path
) -> None:
    """Time rows, and beside them the scales of layers that round by the call, stand in one row of one table."""
    assert gathers(written[0]) == ["step_table"]
    writer = UNetWriter(checkpoint, Form({}, dict.fromkeys(checkpoint.layers, NARROW)))
    writer.whole(tmp_path / "unet.onnx")
    assert gathers(tmp_path / "unet.onnx") == ["step_table"]
    rows = sum(table.shape[1] for table in checkpoint.time_tables.values())
    assert writer.tables.matrix is not None
    assert writer.tables.matrix.shape == (3, rows + 2 * len(checkpoint.layers))


@pytest.mark.parametrize("part", ["weight", "weight_scale", "bias"])
def test_another_number_in_the_model_is_found(
    part: str, checkpoint: Checkpoint, written: tuple[Path, UNetWriter], tmp_path: Path
) -> None:
    path, writer = written
    name = next(name for name, one in checkpoint.layers.items() if one.bias is not None)
    weights = stored_weights(checkpoint)
    one = weights[name].layer
    other = {
        "weight": lambda: replace(one, stored=_changed(one.integers)),
        "weight_scale": lambda: replace(one, scale=_changed(one.scale)),
        "bias": lambda: replace(one, bias=_changed(one.bias)),
    }[part]()
    with pytest.raises(CheckFailed, match=f"of {name} in unet.onnx are not the checkpoint's"):
        check_stored(path, {**weights, name: StoredWeight(other)}, writer.tables.matrix)


def _changed(values: np.ndarray | None) -> np.ndarray:
    assert values is not None
    changed = values.copy()
    changed.reshape(-1)[-1] = -changed.reshape(-1)[-1] if values.dtype != np.int8 else changed.reshape(-1)[-1] ^ 1
    return changed
