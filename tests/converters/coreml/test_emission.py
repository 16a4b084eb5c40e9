"""Weights read back from saved packages with coremltools' own reader: bit for bit the checkpoint's integers and scales."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.coreml.components import convert_unet
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_runtime.quiet import quiet_import

CASES = {
    "iOS16 per-tensor": {"minimum_os": "iOS16"},
    "iOS17 per-tensor": {"minimum_os": "iOS17"},
    "iOS17 per-tensor, 8 bits as palette": {"minimum_os": "iOS17", "eight_bit": "palette"},
    "iOS18 per-tensor": {"minimum_os": "iOS18"},
    "iOS18 per-channel": {"minimum_os": "iOS18", "palette": "per-channel"},
    "iOS18 per-channel, 8 bits as palette": {"minimum_os": "iOS18", "palette": "per-channel", "eight_bit": "palette"},
    "iOS17 float activations": {"minimum_os": "iOS17", "activations": "float16"},
    "iOS18 float activations": {"minimum_os": "iOS18", "activations": "float16"},
    "iOS17 for the GPU": {"minimum_os": "iOS17", "compute_unit": "gpu"},
    "iOS18 for the GPU": {"minimum_os": "iOS18", "compute_unit": "gpu"},
}

REPEATED = {"iOS17 per-tensor", "iOS18 per-channel", "iOS17 for the GPU", "iOS17 float activations"}
"""Each part of these is in another one."""


def constants(package: Path) -> dict[str, Any]:
    """Name -> operation of every compressed or plain constant, as coremltools loads them."""
    with quiet_import():
        import coremltools as ct
        from coremltools.converters.mil.frontend.milproto.load import load

        spec = ct.models.MLModel(str(package), skip_model_load=True).get_spec()
        program = load(spec, spec.specificationVersion, str(package / "Data" / "com.apple.CoreML" / "weights"))
    return {op.outputs[0].name: op for op in program.functions["main"].operations}


def table_entries(op: Any) -> NDArray[np.float16]:
    """Entries of a look-up table, be they floats or integers and a scale."""
    maker = op.lut.op
    if maker is None or maker.op_type == "const":
        return np.asarray(op.lut.val)
    assert maker.op_type == "constexpr_blockwise_shift_scale" and maker.offset is None
    data, scale = np.asarray(maker.data.val), np.asarray(maker.scale.val)
    assert data.dtype == np.int8 and scale.dtype == np.float16
    return (data.astype(np.float64) * scale.astype(np.float64)).astype(np.float16)


def integers_and_entries(op: Any, bits: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The stored integers, and what one unit of each is worth [1] or [C_out]."""
    if op.op_type == "constexpr_lut_to_dense":
        lut = table_entries(op)
        entries = lut.reshape(-1, lut.size if lut.ndim == 1 else lut.shape[-2])
        count = entries.shape[1]
        if lut.ndim == 1:
            shape = tuple(int(n) for n in op.shape.val)
            width = int(np.log2(count))
            stream = np.unpackbits(np.asarray(op.indices.val).view(np.uint8), bitorder="little")
            each = stream[: int(np.prod(shape)) * width].reshape(-1, width).astype(np.int64)
            indices = (each << np.arange(width)).sum(axis=1).reshape(shape)
        else:
            indices = np.asarray(op.indices.val).astype(np.int64)
        assert count == (256 if bits > 6 else 16)
        return indices - count // 2, entries
    if op.op_type == "constexpr_affine_dequantize":
        assert int(op.zero_point.val) == 0
        return np.asarray(op.quantized_data.val).astype(np.int64), np.atleast_1d(op.scale.val)
    assert op.op_type == "constexpr_blockwise_shift_scale" and op.offset is None
    return np.asarray(op.data.val).astype(np.int64), np.asarray(op.scale.val).reshape(-1)


@pytest.mark.parametrize(
    "settings",
    [pytest.param(settings, id=name, marks=[pytest.mark.slow] * (name in REPEATED)) for name, settings in CASES.items()],
)
def test_every_layer_bit_for_bit(checkpoint: Checkpoint, settings: dict[str, str], converted: Callable[..., Path]) -> None:
    program = constants(converted(**settings))
    per_channel = settings.get("palette") == "per-channel"
    assert {layer.weight_bits for layer in checkpoint.layers.values()} == {4, 8}
    for name, layer in checkpoint.layers.items():
        flat_name = name.replace(".", "_")
        integers, unit = integers_and_entries(program[f"p_{flat_name}_weight_to_fp16"], layer.weight_bits)
        on_channels = settings.get("compute_unit") != "gpu"
        # A linear layer of [O, I] is a convolution of [O, I, 1, 1] where the channels come first.
        shape = (*layer.integers.shape, 1, 1) if on_channels and layer.spec.kind == "linear" else layer.integers.shape
        np.testing.assert_array_equal(integers, layer.integers.reshape(shape))
        assert unit.dtype == np.float16
        if unit.ndim == 2:
            grid = np.arange(unit.shape[1], dtype=np.float64) - unit.shape[1] // 2
            scale = layer.scale.astype(np.float64) if per_channel else unit[:1, -1].astype(np.float64) / grid[-1]
            np.testing.assert_array_equal(unit, (scale[:, None] * grid[None, :]).astype(np.float16))
        else:
            scale = unit.astype(np.float64)
        if per_channel:
            np.testing.assert_array_equal(scale, layer.scale.astype(np.float64))
            continue
        mantissa, _ = np.frexp(scale)
        assert scale.size == 1 and mantissa[0] == 0.5, f"{name}: entries are the integers times a power of two"
        after = np.asarray(program[f"b_{flat_name}_scale_to_fp16"].outputs[0].val)
        np.testing.assert_array_equal(after.reshape(-1) * scale, layer.scale.astype(np.float64))


@pytest.mark.parametrize("palette", ["per-tensor", "per-channel"])
def test_tables_beside_int8_activations_hold_integers_on_ios18(
    checkpoint: Checkpoint, palette: str, converted: Callable[..., Path]
) -> None:
    """As Apple's guide to joint compression has it: int8 table -> constexpr_blockwise_shift_scale -> constexpr_lut_to_dense."""
    program = constants(converted(minimum_os="iOS18", palette=palette))
    tables = [op.lut.op for op in program.values() if op.op_type == "constexpr_lut_to_dense"]
    assert len(tables) == sum(layer.weight_bits == 4 for layer in checkpoint.layers.values())
    assert {table.op_type for table in tables} == {"constexpr_blockwise_shift_scale"}
    floats = constants(converted(minimum_os="iOS18", activations="float16"))
    kinds = {op.lut.op.op_type for op in floats.values() if op.op_type == "constexpr_lut_to_dense"}
    assert kinds == {"const"}


def test_step_tables_are_the_checkpoints(checkpoint: Checkpoint, converted: Callable[..., Path]) -> None:
    table = np.asarray(constants(converted())["b_tables_matrix_to_fp16"].outputs[0].val)
    time = np.concatenate(list(checkpoint.time_tables.values()), axis=1)
    np.testing.assert_array_equal(table[:, : time.shape[1]], time.astype(np.float16))
    rest = table[:, time.shape[1] :].astype(np.float64)
    for column, layer in enumerate(checkpoint.layers.values()):
        assert layer.activation_scale is not None
        # Snapped scales: the float16 entry is the reciprocal itself, up to the scale's own rounding to float32 (2^-24).
        np.testing.assert_allclose(rest[:, 2 * column] * layer.activation_scale, 2.0**-7, rtol=2.0**-23, atol=0)
        np.testing.assert_array_equal(rest[:, 2 * column + 1], (layer.activation_scale * 128).astype(np.float16))


def test_package_has_no_time_path(converted: Callable[..., Path]) -> None:
    assert not [name for name in constants(converted()) if "time_emb" in name]


def test_same_checkpoint_gives_the_same_bytes(checkpoint: Checkpoint, converted: Callable[..., Path], tmp_path: Path) -> None:
    first = converted()
    second = tmp_path / convert_unet(checkpoint, CoreMLOptions(), tmp_path).components["unet"].path
    contents = [
        {p.relative_to(package): p.read_bytes() for p in package.rglob("*") if p.is_file()} for package in (first, second)
    ]
    assert contents[0].keys() == contents[1].keys()
    assert [path for path in contents[0] if contents[0][path] != contents[1][path]] == []
