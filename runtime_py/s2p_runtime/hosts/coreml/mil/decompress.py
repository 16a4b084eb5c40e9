"""Compile-time decompression of weights: Core ML's ``constexpr_*`` operations in NumPy.

Semantics after the iOS 16 and iOS 18 operation definitions. Every function takes the parameters by name and the dtype of
its arithmetic (float32 or float64), and returns the dense array; look-ups return the table's dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.hosts.coreml.mil.types import ElementType, unpack_bits

Parts = Mapping[str, NDArray[Any]]
Decompressor = Callable[[Parts, "np.dtype[Any]"], NDArray[Any]]


def lut_to_dense(parts: Parts, arithmetic: np.dtype[Any]) -> NDArray[Any]:
    """``constexpr_lut_to_dense``; the iOS 16 form has a ``shape`` and packed indices, the iOS 18 form has not."""
    if "shape" in parts:
        return _packed_lut(parts["indices"], parts["lut"], tuple(int(size) for size in parts["shape"]))
    axis = parts.get("vector_axis")
    return _grouped_lut(parts["indices"], parts["lut"], None if axis is None else int(axis))


def _packed_lut(indices: NDArray[Any], lut: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    bits = (lut.size - 1).bit_length()
    if lut.ndim != 1 or lut.size != 2**bits or not 1 <= bits <= 8:
        raise ValueError(f"a table of {lut.size} entries")
    count = int(np.prod(shape))
    if indices.size != (count * bits + 7) // 8:
        raise ValueError(f"{indices.size} bytes of indices for {count} elements of {bits} bits")
    if bits < 8:
        indices = unpack_bits(indices, ElementType(f"uint{bits}", "int", bits, np.dtype(np.uint8)), count)
    dense: NDArray[Any] = lut[indices].reshape(shape)
    return dense


def _grouped_lut(indices: NDArray[Any], lut: NDArray[Any], vector_axis: int | None) -> NDArray[Any]:
    """``lut`` is [groups along each axis of indices..., entries, vector length]."""
    if lut.ndim != indices.ndim + 2:
        raise ValueError(f"a table of rank {lut.ndim} for indices of rank {indices.ndim}")
    groups, (entries, length) = lut.shape[: indices.ndim], lut.shape[indices.ndim :]
    _block_sizes(indices.shape, groups)
    # Row number of each element's table, broadcast over the blocks: a flat take then needs no repeated tables.
    tables = _expand(np.arange(int(np.prod(groups)), dtype=np.int64).reshape(groups), indices.shape)
    rows = tables * entries + indices
    vectors: NDArray[Any] = lut.reshape(-1, length)[rows]
    if length == 1:
        return vectors.reshape(indices.shape)
    if vector_axis is None:
        raise ValueError("vectors in the table but no vector_axis")
    axis = vector_axis % indices.ndim
    shape = list(indices.shape)
    shape[axis] *= length
    return np.moveaxis(vectors, -1, axis + 1).reshape(shape)


def affine_dequantize(parts: Parts, arithmetic: np.dtype[Any]) -> NDArray[Any]:
    """``constexpr_affine_dequantize``: scale * (q - zero_point); scale and zero_point scalar or along ``axis``."""
    data = parts["quantized_data"]
    axis = int(parts["axis"]) % data.ndim

    def spread(parameter: NDArray[Any]) -> NDArray[Any]:
        value: NDArray[Any] = parameter.astype(arithmetic)
        return value.reshape([-1 if i == axis else 1 for i in range(data.ndim)]) if value.ndim else value

    dense: NDArray[Any] = spread(parts["scale"]) * (data.astype(arithmetic) - spread(parts["zero_point"]))
    return dense


def blockwise_shift_scale(parts: Parts, arithmetic: np.dtype[Any]) -> NDArray[Any]:
    """``constexpr_blockwise_shift_scale``: scale * (data - offset); scale and offset per block along every axis."""
    data, scale = parts["data"], parts["scale"]
    _block_sizes(data.shape, scale.shape)
    value: NDArray[Any] = data.astype(arithmetic)
    if "offset" in parts:
        if parts["offset"].shape != scale.shape:
            raise ValueError(f"offset of shape {parts['offset'].shape} for scales of shape {scale.shape}")
        value = value - _expand(parts["offset"].astype(arithmetic), data.shape)
    value = value * _expand(scale.astype(arithmetic), data.shape)
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
