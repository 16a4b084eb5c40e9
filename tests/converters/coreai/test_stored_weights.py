"""What Apple's bindings read back from a program is the checkpoint's integers, scales and tables, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.coreai.options import CoreAIOptions
from s2p_converters.targets.coreai.weights import emitted_weight, packed
from s2p_runtime.hosts.coreai.constants import read_constants

MakeCheckpoint = Callable[..., Checkpoint]
WriteUNet = Callable[..., Path]


def operations(graph: Any) -> Iterator[Any]:
    for region in graph.regions:
        for block in region.blocks:
            yield from block.operations


def constant(value: Any) -> NDArray[Any]:
    """The numbers of a ``coreai.constant``, read without our own reader."""
    from coreai._compiler._mlir_libs._coreaiIR._bindings.compiler import copy_constant_value_to_array
    from coreai._compiler.ir import RankedTensorType

    operation = value.owner
    kind = RankedTensorType(operation.attributes["value"].type)
    element, count = str(kind.element_type), int(np.prod(kind.shape))
    bits = int("".join(filter(str.isdigit, element)))
    data = np.zeros((count * bits + 7) // 8, np.uint8)
    copy_constant_value_to_array(constant_op=operation.operation, destination=data)
    if element.startswith("f"):
        return data.view({"f16": np.float16, "f32": np.float32}[element]).astype(np.float64).reshape(kind.shape)
    # One number at a time, as a reader would do it by hand.
    line = int.from_bytes(data.tobytes(), "little")
    numbers = [(line >> (bits * place)) & ((1 << bits) - 1) for place in range(count)]
    wrap = 1 << bits if element.startswith("si") else 0
    return np.array([n - wrap if n >= wrap // 2 and wrap else n for n in numbers], np.int64).reshape(kind.shape)


def dense_weights(path: Path) -> dict[str, NDArray[np.float64]]:
    """Every compressed weight by the name of its constant, as the program's own operation expands it."""
    from coreai.authoring import AIModelAsset

    program = AIModelAsset.load(path).program
    found = {}
    for graph in program._module._mlir_module.body.operations:
        for operation in operations(graph):
            if operation.name not in ("coreai.lut_to_dense", "coreai.blockwise_shift_scale"):
                continue
            operands = list(operation.operands)
            name = str(operands[0].owner.attributes["value"]).split("<")[1].split(">")[0]
            stored, second = constant(operands[0]), constant(operands[1])
            if operation.name == "coreai.lut_to_dense":
                found[name] = second.reshape(-1)[stored]
            else:
                assert not constant(operands[2]).any() and not constant(operands[3]).any()
                found[name] = stored * second
    return found


@pytest.mark.parametrize("form", ["tokens", "channels-first"])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_every_layer_is_the_checkpoints(form: str, precision: str, checkpoint: Checkpoint, write_unet: WriteUNet) -> None:
    path = write_unet(checkpoint, precision=precision, compute_unit="gpu" if form == "tokens" else "neural-engine")
    check_weights(checkpoint, path)
    named = {one.name: one for one in read_constants(path) if one.name is not None}
    kind = np.float16 if precision == "fp16" else np.float32
    for name, layer in checkpoint.layers.items():
        if layer.bias is not None:
            np.testing.assert_array_equal(named[f"{name}.bias"].values.reshape(-1), layer.bias.astype(kind))
    for name, values in checkpoint.floats.items():
        if np.ptp(values) == 0:
            continue  # one number: Apple's library keeps it in the graph, without a name
        np.testing.assert_array_equal(named[name].values.reshape(-1), values.reshape(-1).astype(kind), err_msg=name)
    scales = [layer.activation_scale[:, None] for layer in checkpoint.layers.values() if layer.activation_scale is not None]
    table = np.concatenate([*checkpoint.time_tables.values(), *scales], axis=1)
    np.testing.assert_array_equal(named["step_table"].values, table.astype(kind))


def check_weights(checkpoint: Checkpoint, path: Path) -> None:
    dense, named = dense_weights(path), {one.name: one for one in read_constants(path)}
    assert set(dense) == {f"{name}.weight" for name in checkpoint.layers}
    for name, layer in checkpoint.layers.items():
        found = dense[f"{name}.weight"].reshape(layer.spec.out_channels, -1)
        factor = named[f"{name}.weight_scale"].values.astype(np.float64).reshape(-1, 1)
        want = layer.integers.reshape(layer.spec.out_channels, -1) * layer.scale.astype(np.float64)[:, None]
        np.testing.assert_array_equal(found * factor, want, err_msg=name)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("weights", ["palette", "integers"])
def test_every_width(bits: int, weights: str, make_checkpoint: MakeCheckpoint, write_unet: WriteUNet) -> None:
    checkpoint = make_checkpoint(weight_bits=bits, mixed=False)
    path = write_unet(checkpoint, weights=weights)
    check_weights(checkpoint, path)
    kinds = {
        one.kind for one in read_constants(path) if one.name is not None and one.name.endswith(".weight") and one.kind[1] == "i"
    }
    stored = {"palette": {2: "ui2", 3: "ui3", 4: "ui4", 5: "ui6", 6: "ui6", 7: "ui8", 8: "ui8"}}.get(
        weights, {2: "si2", 3: "si4", 4: "si4", 5: "si8", 6: "si8", 7: "si8", 8: "si8"}
    )
    assert kinds == {stored[bits]}


def test_auto_takes_the_smaller(make_checkpoint: MakeCheckpoint) -> None:
    for bits in (2, 3, 4, 5, 6, 7, 8):
        for layer in make_checkpoint(weight_bits=bits, mixed=False).layers.values():
            sizes = {
                form: emitted_weight(layer, CoreAIOptions(weights=form)).stored_bytes
                for form in ("palette", "integers", "auto")
            }
            assert sizes["auto"] == min(sizes["palette"], sizes["integers"])


def test_packing_by_hand() -> None:
    # 1, 2, 3 in three bits, from the lowest: 0b011_010_001 = 0xd1, 0x00.
    assert packed(np.array([1, 2, 3], np.uint8), 3).tolist() == [0xD1, 0x00]
    assert packed(np.array([0xF, 0x1, 0x8], np.uint8), 4).tolist() == [0x1F, 0x08]
    assert packed(np.array([3, 0, 1, 2, 1], np.uint8), 2).tolist() == [0b10010011, 0b01]


def test_equal_programs_are_equal_bytes(checkpoint: Checkpoint, write_unet: WriteUNet) -> None:
    first, second = (write_unet(checkpoint, anew=True) for _ in range(2))
    for name in ("main.mlirb", "main.hash", "metadata.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    text = (first / "main.mlirb").read_bytes()
    assert b".py" not in text and b"/home" not in text and b"/tmp" not in text
