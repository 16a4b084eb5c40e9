"""Compile-time decompression of weights: Core ML's ``constexpr_*`` operations in NumPy.

Semantics after the iOS 16 and iOS 18 operation definitions. Every function takes the parameters by name and the dtype of
its arithmetic (float32 or float64), and returns the dense array; look-ups return the table's dtype, of floats float64 where that
is the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.hosts.coreml.mil.types import ElementType, look_up, unpack_bits, values_of_bytes

Parts = Mapping[str, NDArray[Any]]
Decompressor = Callable[[Parts, "np.dtype[Any]"], NDArray[Any]]


def lut_to_dense(parts: Parts, arithmetic: np.dtype[Any]) -> NDArray[Any]:
    """``constexpr_lut_to_dense``; the iOS 16 form has a ``shape`` and packed indices, the iOS 18 form has not."""
    table = parts["lut"]
    if arithmetic == np.float64 and table.dtype.kind == "f":
        table = table.astype(arithmetic)  # a table is small, what is looked up in it is not
    if "shape" in parts:
        return _packed_lut(parts["indices"], table, tuple(int(size) for size in parts["shape"]))
    axis = parts.get("vector_axis")
    return _grouped_lut(parts["indices"], table, None if axis is None else int(axis))


def _packed_lut(indices: NDArray[Any], lut: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    bits = (lut.size - 1).bit_length()
    if lut.ndim != 1 or lut.size != 2**bits or not 1 <= bits <= 8:
        raise ValueError(f"a table of {lut.size} entries")
    count = int(np.prod(shape))
    if indices.size != (count * bits + 7) // 8:
        raise ValueError(f"{indices.size} bytes of indices for {count} elements of {bits} bits")
    element = ElementType(f"uint{bits}", "int", bits, np.dtype(np.uint8))
    if bits in (1, 2, 4):
        # Looked up by the byte, which stands for all elements that it holds.
        return look_up(lut[values_of_bytes(element)], indices).reshape(-1)[:count].reshape(shape)
    return look_up(lut[:, None], indices if bits == 8 else unpack_bits(indices, element, count)).reshape(shape)


def _grouped_lut(indices: NDArray[Any], lut: NDArray[Any], vector_axis: int | None) -> NDArray[Any]:
    """``lut`` is [groups along each axis of indices..., entries, vector length]."""
    if lut.ndim != indices.ndim + 2:
        raise ValueError(f"a table of rank {lut.ndim} for indices of rank {indices.ndim}")
    groups, (entries, length) = lut.shape[: indices.ndim], lut.shape[indices.ndim :]
    sizes = _block_sizes(indices.shape, groups)
    if indices.size and int(indices.max()) >= entries:
        raise IndexError(f"index {int(indices.max())} in a table of {entries} entries")
    vectors = np.empty((*indices.shape, length), lut.dtype)
    # One block of the first axis at a time: most palettes have one, or one for each output channel.
    for group in range(groups[0]):
        rows = slice(group * sizes[0], (group + 1) * sizes[0])
        vectors[rows] = look_up(lut[group].reshape(-1, length), _table_rows(indices[rows], groups[1:], entries))
    if length == 1:
        return vectors.reshape(indices.shape)
    if vector_axis is None:
        raise ValueError("vectors in the table but no vector_axis")
    axis = vector_axis % indices.ndim
    shape = list(indices.shape)
    shape[axis] *= length
    return np.moveaxis(vectors, -1, axis + 1).reshape(shape)


def _table_rows(indices: NDArray[Any], groups: tuple[int, ...], entries: int) -> NDArray[Any]:
    """Row of each element in all tables of these groups, one below the other; the first axis of ``indices`` has one group."""
    count = int(np.prod(groups))
    if count == 1:
        return indices
    tables = _expand(np.arange(count, dtype=np.int64).reshape(1, *groups), indices.shape)
    rows: NDArray[Any] = tables * entries + indices
    return rows


def affine_dequantize(parts: Parts, arithmetic: np.dtype[Any]) -> NDArray[Any]:
    """``constexpr_affine_dequantize``: scale * (q - zero_point); scale and zero_point scalar or along ``axis``."""
    data = parts["quantized_data"]
    axis = int(parts["axis"]) % data.ndim

    def spread(parameter: NDArray[Any]) -> NDArray[Any]:
        value: NDArray[Any] = parameter.astype(arithmetic)
        return value.reshape([-1 if i == axis else 1 for i in range(data.ndim)]) if value.ndim else value

    dense: NDArray[Any] = data.astype(arithmetic)
    dense -= spread(parts["zero_point"])
    dense *= spread(parts["scale"])
    return dense


def blockwise_shift_scale(parts: Parts, arithmetic: np.dtype[Any]) -> NDArray[Any]:
    """``constexpr_blockwise_shift_scale``: scale * (data - offset); scale and offset per block along every axis."""
    data, scale = parts["data"], parts["scale"]
    _block_sizes(data.shape, scale.shape)
    value: NDArray[Any] = data.astype(arithmetic)
    if "offset" in parts:
        if parts["offset"].shape != scale.shape:
            raise ValueError(f"offset of shape {parts['offset'].shape} for scales of shape {scale.shape}")
        value -= _expand(parts["offset"].astype(arithmetic), data.shape)
    value *= _expand(scale.astype(arithmetic), data.shape)
    return value


def sparse_to_dense(parts: Parts, arithmetic: np.dtype[Any]) -> NDArray[Any]:
    """``constexpr_sparse_to_dense``; the iOS 16 form has a ``shape`` and a packed mask, the iOS 18 form has not."""
    mask, values = parts["mask"], parts["nonzero_data"]
    shape = tuple(int(size) for size in parts["shape"]) if "shape" in parts else mask.shape
    flags = np.unpackbits(mask, count=int(np.prod(shape)), bitorder="little") if "shape" in parts else mask.reshape(-1)
    dense = np.zeros(flags.size, values.dtype)
    dense[flags != 0] = values
    return dense.reshape(shape)


def cast(parts: Parts, arithmetic: np.dtype[Any]) -> NDArray[Any]:
    """``constexpr_cast``: fp16 stored, fp32 computed; the declared type carries the target."""
    return parts["source_val"]


def _block_sizes(shape: tuple[int, ...], blocks: tuple[int, ...]) -> list[int]:
    if len(shape) != len(blocks) or any(b == 0 or n % b for n, b in zip(shape, blocks, strict=True)):
        raise ValueError(f"blocks of shape {blocks} for data of shape {shape}")
    return [n // b for n, b in zip(shape, blocks, strict=True)]


def _expand(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Repeat each element over its block; axes with one block stay 1 and broadcast."""
    for axis, size in enumerate(_block_sizes(shape, values.shape)):
        if size > 1 and values.shape[axis] > 1:
            values = np.repeat(values, size, axis)
    return values


DECOMPRESSORS: Mapping[str, Decompressor] = {
    "constexpr_lut_to_dense": lut_to_dense,
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_sparse_to_dense": sparse_to_dense,
    "constexpr_cast": cast,
}
