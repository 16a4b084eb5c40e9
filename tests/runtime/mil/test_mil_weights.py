"""Constants and compressed weights: known integers come back bit for bit, dense values follow the documented formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2p_runtime.hosts.coreml.mil import Program, Weight
from s2p_runtime.hosts.coreml.mil.decompress import DECOMPRESSORS
from s2p_runtime.hosts.coreml.mil.interpreter import DenseWeights
from s2p_runtime.hosts.coreml.mil.types import ElementType, look_up, unpack_bits

Array = np.ndarray[Any, Any]


def sub_byte(name: str, values: Array) -> Array:
    """An array of coremltools' marked NumPy dtype for a sub-byte type."""
    from coremltools.converters.mil.mil import types

    return values.astype(types.nptype_from_builtin(types.string_to_builtin(name)))


def compressed(open_program: Any, shape: tuple[int, ...], dtype: str, make: Any, target: str) -> tuple[Program, Weight]:
    """A program x + constexpr(...) and its one compressed weight."""
    program: Program = open_program({"x": (shape, dtype)}, lambda mb, x: mb.add(x=x, y=make(mb)), target)
    (weight,) = (weight for weight in program.weights() if weight.form != "const")
    (result,) = program.run({"x": np.zeros(shape, dtype)}).values()
    np.testing.assert_array_equal(result, weight.dense())
    (exact,) = program.run({"x": np.zeros(shape, dtype)}, compute="float64").values()
    np.testing.assert_array_equal(exact, weight.dense(exact=True))
    assert weight.dense().dtype == np.dtype(dtype) and weight.dense(exact=True).dtype == np.float64
    return program, weight


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_packed_table_ios16(bits: int, dtype: str, open_program: Any, rng: np.random.Generator) -> None:
    shape = (5, 3, 7)
    indices = rng.integers(0, 2**bits, shape).astype(np.uint8)
    table = rng.standard_normal(2**bits).astype(dtype)
    # Packing written out: bit k of index i is bit (i * bits + k) of the stream, least significant bit first.
    stream = np.zeros(-(-indices.size * bits // 8) * 8, np.uint8)
    for i, index in enumerate(indices.reshape(-1)):
        for k in range(bits):
            stream[i * bits + k] = index >> k & 1
    packed = (stream.reshape(-1, 8) << np.arange(8, dtype=np.uint8)).sum(1).astype(np.uint8)
    _, weight = compressed(
        open_program,
        shape,
        dtype,
        lambda mb: mb.constexpr_lut_to_dense(indices=packed, lut=table, shape=np.uint32(shape)),
        "iOS16",
    )
    np.testing.assert_array_equal(weight.dense(), table[indices])
    np.testing.assert_array_equal(weight.stored()["indices"], packed)
    np.testing.assert_array_equal(weight.stored()["lut"], table)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("groups", [(1, 1, 1), (4, 1, 1), (2, 3, 1)])
def test_table_per_group_ios18(bits: int, groups: tuple[int, ...], open_program: Any, rng: np.random.Generator) -> None:
    indices = rng.integers(0, 2**bits, (4, 6, 5)).astype(np.uint8)
    table = rng.standard_normal((*groups, 2**bits, 1)).astype(np.float16)
    name = f"uint{bits}"
    _, weight = compressed(
        open_program,
        indices.shape,
        "float16",
        lambda mb: mb.constexpr_lut_to_dense(indices=sub_byte(name, indices), lut=table),
        "iOS18",
    )
    expected = np.empty(indices.shape, np.float16)
    for place in np.ndindex(indices.shape):
        group = tuple(i * g // n for i, g, n in zip(place, groups, indices.shape, strict=True))
        expected[place] = table[(*group, indices[place], 0)]
    np.testing.assert_array_equal(weight.dense(), expected)
    np.testing.assert_array_equal(weight.stored()["indices"], indices)
    assert weight.stored_bytes == -(-indices.size * bits // 8) + (table.size * 2 if table.size >= 10 else 0)


def test_vector_table_ios18(open_program: Any) -> None:
    """The example of the operation's documentation, vector_axis 1 and 2, with a = 1, 2, 3 and b = 11, 12, 13."""
    indices = np.array([[[0, 0], [1, 0]], [[1, 1], [0, 0]]], np.uint8)
    table = np.float16([1, 2, 3, 11, 12, 13]).reshape(1, 1, 1, 2, 3)
    expected = {
        1: [[[1, 1], [2, 2], [3, 3], [11, 1], [12, 2], [13, 3]], [[11, 11], [12, 12], [13, 13], [1, 1], [2, 2], [3, 3]]],
        2: [[[1, 2, 3, 1, 2, 3], [11, 12, 13, 1, 2, 3]], [[11, 12, 13, 11, 12, 13], [1, 2, 3, 1, 2, 3]]],
    }
    for axis, dense in expected.items():
        shape = np.shape(dense)
        _, weight = compressed(
            open_program,
            shape,
            "float16",
            lambda mb, axis=axis: mb.constexpr_lut_to_dense(
                indices=sub_byte("uint1", indices), lut=table, vector_axis=np.int32(axis)
            ),
            "iOS18",
        )
        np.testing.assert_array_equal(weight.dense(), dense)


@pytest.mark.parametrize("stored", ["int8", "uint8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_affine_dequantize(stored: str, per_channel: bool, open_program: Any, rng: np.random.Generator) -> None:
    info = np.iinfo(stored)
    q = rng.integers(info.min, info.max + 1, (4, 3, 5)).astype(stored)
    scale = rng.uniform(0.01, 0.1, 3 if per_channel else ()).astype(np.float16)
    zero = rng.integers(0, 50, 3 if per_channel else ()).astype(stored)
    _, weight = compressed(
        open_program,
        q.shape,
        "float16",
        lambda mb: mb.constexpr_affine_dequantize(quantized_data=q, scale=scale, zero_point=zero, axis=np.int32(1)),
        "iOS16",
    )
    s, z = (value.reshape(1, -1, 1) if per_channel else value for value in (scale.astype(float), zero.astype(float)))
    product = s * (q.astype(float) - z)
    np.testing.assert_array_equal(weight.dense(exact=True), product)
    # 9 + 11 significant bits fit float32, so the only rounding is the one to fp16.
    np.testing.assert_array_equal(weight.dense(), product.astype(np.float16))
    np.testing.assert_array_equal(weight.stored()["quantized_data"], q)


@pytest.mark.parametrize(("stored", "low", "high"), [("int4", -8, 7), ("uint4", 0, 15), ("int8", -128, 127), ("uint8", 0, 255)])
@pytest.mark.parametrize("blocks", [(4, 1, 1), (2, 3, 1)])
def test_blockwise_shift_scale(
    stored: str, low: int, high: int, blocks: tuple[int, ...], open_program: Any, rng: np.random.Generator
) -> None:
    q = rng.integers(low, high + 1, (4, 6, 5)).astype(np.int16)
    q.reshape(-1)[:2] = low, high
    scale = rng.uniform(0.01, 0.1, blocks).astype(np.float16)
    offset = rng.integers(0, 8, blocks)
    _, weight = compressed(
        open_program,
        q.shape,
        "float16",
        lambda mb: mb.constexpr_blockwise_shift_scale(data=sub_byte(stored, q), scale=scale, offset=sub_byte(stored, offset)),
        "iOS18",
    )
    repeat = [np.repeat(np.arange(b), n // b) for n, b in zip(q.shape, blocks, strict=True)]
    product = scale.astype(float)[np.ix_(*repeat)] * (q - offset[np.ix_(*repeat)])
    np.testing.assert_array_equal(weight.dense(exact=True), product)
    np.testing.assert_array_equal(weight.dense(), product.astype(np.float16))
    np.testing.assert_array_equal(weight.stored()["data"], q)
    np.testing.assert_array_equal(weight.stored()["offset"], offset)


def test_integer_table_with_channel_scale(open_program: Any, rng: np.random.Generator) -> None:
    """A table of int8 whose values another constexpr scales per output channel."""
    indices = rng.integers(0, 16, (3, 8)).astype(np.uint8)
    table = np.arange(-8, 8, dtype=np.int8).reshape(1, 1, 16, 1)
    scale = rng.uniform(0.01, 0.1, (3, 1)).astype(np.float16)

    def make(mb: Any) -> Any:
        integers = mb.constexpr_lut_to_dense(indices=sub_byte("uint4", indices), lut=table)
        return mb.constexpr_blockwise_shift_scale(data=integers, scale=scale)

    _, weight = compressed(open_program, (3, 8), "float16", make, "iOS18")
    integers = indices.astype(int) - 8
    np.testing.assert_array_equal(weight.dense(exact=True), integers * scale.astype(float))
    np.testing.assert_array_equal(weight.stored()["data/indices"], indices)
    np.testing.assert_array_equal(weight.stored()["data/lut"], table)
    np.testing.assert_array_equal(weight.stored()["scale"], scale)


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_sparse(target: str, open_program: Any, rng: np.random.Generator) -> None:
    dense = rng.standard_normal((3, 7)).astype(np.float32) * (rng.uniform(size=(3, 7)) < 0.4)
    mask = (dense != 0).astype(np.uint8)
    values = dense[dense != 0]

    def make(mb: Any) -> Any:
        if target == "iOS18":
            return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=sub_byte("uint1", mask))
        packed = np.packbits(mask.reshape(-1), bitorder="little")
        return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=packed, shape=np.uint32([3, 7]))

    _, weight = compressed(open_program, (3, 7), "float32", make, target)
    np.testing.assert_array_equal(weight.dense(), dense)


def test_cast(open_program: Any, rng: np.random.Generator) -> None:
    values = rng.standard_normal((3, 7)).astype(np.float16)
    _, weight = compressed(
        open_program, (3, 7), "float32", lambda mb: mb.constexpr_cast(source_val=values, output_dtype="fp32"), "iOS16"
    )
    np.testing.assert_array_equal(weight.dense(), values.astype(np.float32))


@pytest.mark.parametrize("size", [3, 40])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_plain_constants_inside_and_beside_the_program(
    dtype: str, size: int, open_program: Any, rng: np.random.Generator
) -> None:
    values = rng.standard_normal(size).astype(dtype)
    program: Program = open_program({"x": ((size,), dtype)}, lambda mb, x: mb.add(x=x, y=values), "iOS17")
    (weight,) = (weight for weight in program.weights() if weight.type.element.kind == "float")
    assert (weight.form, weight.stored_bytes) == ("const", values.nbytes if size >= 10 else 0)
    np.testing.assert_array_equal(weight.stored()["val"], values)
    np.testing.assert_array_equal(weight.dense(), values)


def test_weights_do_not_depend_on_the_cache(save_package: Any, rng: np.random.Generator) -> None:
    from s2p_runtime.hosts.coreml.mil import load_program

    matrix = rng.standard_normal((16, 16)).astype(np.float16)
    path: Path = save_package({"x": ((2, 16), "float16")}, lambda mb, x: mb.linear(x=x, weight=matrix), "iOS17")
    x = rng.standard_normal((2, 16))
    kept, dropped = load_program(path), load_program(path, weight_cache_bytes=0)
    results = [next(iter(program.run({"x": x}).values())) for program in (kept, kept, dropped)]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize(("compute", "size"), [("declared", 4), ("float64", 8)])
def test_weights_of_a_function_are_kept_all_or_none(
    compute: str, size: int, open_program: Any, rng: np.random.Generator
) -> None:
    matrices = [rng.standard_normal((16, 16)).astype(np.float16) for _ in range(2)]

    def build(mb: Any, x: Any) -> Any:
        for matrix in matrices:
            x = mb.linear(x=x, weight=matrix)
        return x

    function = open_program({"x": ((2, 16), "float16")}, build).function()
    read = {name for operation in function.operations for name in operation.reads if name in function.constants}
    needed = size * sum(function.constants[name].type.count for name in read)
    assert needed >= size * 512
    first = function.constants[next(name for name in read if function.constants[name].type.count == 256)]
    for budget in (needed, needed - 1):
        weights, exact = DenseWeights(budget), compute == "float64"
        found = [weights.get(function, first, exact) for _ in range(2)]
        assert (found[0] is found[1]) == (budget == needed)
        np.testing.assert_array_equal(*(each.numpy() for each in found))
        assert found[0].element_size() == size


@pytest.mark.parametrize(
    ("name", "bits"),
    [("uint1", 1), ("uint2", 2), ("uint3", 3), ("int4", 4), ("uint4", 4), ("uint5", 5), ("uint6", 6), ("int7", 7)],
)
def test_unpack_bits(name: str, bits: int) -> None:
    signed = name.startswith("int")
    element = ElementType(name, "int", bits, np.dtype(np.int8 if signed else np.uint8))
    values = [(7 * i) % 2**bits for i in range(11)]
    number = sum(value << (i * bits) for i, value in enumerate(values))
    packed = np.frombuffer(number.to_bytes(-(-11 * bits // 8), "little"), np.uint8)
    expected = [value - 2**bits if signed and value >= 2 ** (bits - 1) else value for value in values]
    np.testing.assert_array_equal(unpack_bits(packed, element, 11), expected)


def test_look_up(rng: np.random.Generator) -> None:
    table, indices = rng.standard_normal((200, 3)), rng.integers(0, 200, (3, 50_000)).astype(np.uint8)
    np.testing.assert_array_equal(look_up(table, indices), table[indices])
    assert look_up(table, indices[:, :0]).shape == (3, 0, 3)
    for outside in (200, -1):
        with pytest.raises(IndexError, match="table of 200 entries"):
            look_up(table, np.array([0, outside]))


def test_an_index_beyond_its_group_finds_no_other_groups_entry() -> None:
    parts = {"indices": np.array([[0, 3]], np.uint8), "lut": np.zeros((1, 2, 3, 1), np.float16)}
    with pytest.raises(IndexError, match="index 3 in a table of 3 entries"):
        DECOMPRESSORS["constexpr_lut_to_dense"](parts, np.dtype(np.float32))
