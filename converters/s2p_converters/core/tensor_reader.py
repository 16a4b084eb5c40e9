"""Takes the tensors of a checkpoint apart and checks every one of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_converters.core.checkpoint_manifest import LayerEntry
from s2p_converters.core.graph.operators import LayerSpec
from s2p_converters.core.grids import (
    MAX_ACTIVATION_BITS,
    AffineWeight,
    GeneralLayer,
    LayerPart,
    Palette,
    QuantizedLayer,
    StepGrid,
    part_keys,
    unpack_unsigned,
)
from s2p_converters.core.packing import integer_range, packs, unpack_nibbles
from s2p_runtime.errors import S2PError

Array = NDArray[Any]


class TensorReader:
    """Takes tensors out of ``unet.safetensors`` and complains in the checkpoint's name."""

    def __init__(self, name: str, tensors: Mapping[str, Array]) -> None:
        self.name, self.tensors, self.taken = name, tensors, set[str]()

    def error(self, what: str) -> S2PError:
        return S2PError(f"checkpoint {self.name} {what}", "make it again with s2p-mobile quantize")

    def expect(self, key: str, shape: tuple[int, ...]) -> Array:
        if key not in self.tensors:
            raise self.error(f"lacks {key}")
        value = self.tensors[key]
        if value.shape != shape:
            raise self.error(f"has {key} of shape {list(value.shape)} instead of {list(shape)}")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise self.error(f"has a NaN or infinity in {key}")
        return value

    def symmetric(self, spec: LayerSpec, entry: LayerEntry, activation_scale: Array | None) -> QuantizedLayer:
        assert entry.weight_bits is not None
        keys = {part: f"{spec.name}.{part}" for part in ("weight_q", "weight_scale", "bias")}
        scale = self.expect(keys["weight_scale"], (spec.out_channels,))
        if scale.dtype != np.float16 or not (scale > 0).all():
            raise self.error(f"has a bad weight scale in layer {spec.name}")
        read = partial(self._integers, keys["weight_q"], spec, entry.weight_bits)
        integers = read()
        low, high = integer_range(entry.weight_bits)
        if integers.min() < low or integers.max() > high:
            raise self.error(f"has integers outside {entry.weight_bits} bits in layer {spec.name}")
        bias = self.expect(keys["bias"], (spec.out_channels,)).astype(np.float32) if spec.bias else None
        self.taken.update(keys.values())
        return QuantizedLayer(
            spec, entry.weight_bits, entry.activation_bits, read, scale, bias, activation_scale, entry.activation_zero
        )

    def _integers(self, key: str, spec: LayerSpec, bits: int) -> NDArray[np.int8]:
        if packs(bits):
            packed = self.expect(key, ((spec.weights + 1) // 2,))
            if packed.dtype != np.uint8:
                raise self.error(f"has {key} of dtype {packed.dtype} instead of uint8")
            return unpack_nibbles(packed, spec.weight_shape)
        integers = self.expect(key, spec.weight_shape)
        if integers.dtype != np.int8:
            raise self.error(f"has {key} of dtype {integers.dtype} instead of int8")
        return integers

    def typed(self, key: str, shape: tuple[int, ...], dtype: type) -> Array:
        """A tensor that must have this dtype; it counts as read."""
        value = self.expect(key, shape)
        if value.dtype != dtype:
            raise self.error(f"has {key} of dtype {value.dtype} instead of {np.dtype(dtype)}")
        self.taken.add(key)
        return value

    def general(self, spec: LayerSpec, entry: LayerEntry, grids: GridReader) -> GeneralLayer:
        first = spec.in_channels if entry.split is None else entry.split
        if not first <= spec.in_channels or (entry.split is not None and first == spec.in_channels):
            raise self.error(f"splits the input of layer {spec.name} outside its {spec.in_channels} channels")
        channels = (first,) if entry.split is None else (first, spec.in_channels - first)
        parts = tuple(
            LayerPart(
                count,
                self._weight(part_keys(spec.name, index), (spec.out_channels, count, *spec.weight_shape[2:]), entry),
                None if entry.activation_bits is None else grids.read(part_keys(spec.name, index)),
            )
            for index, count in enumerate(channels)
        )
        bias = self.typed(f"{spec.name}.bias", (spec.out_channels,), np.float32) if spec.bias else None
        output = grids.read(f"{spec.name}.output") if entry.quantizes_output else None
        return GeneralLayer(spec, parts, bias, output)

    def _weight(self, key: str, shape: tuple[int, ...], entry: LayerEntry) -> AffineWeight | Palette:
        assert entry.weight_bits is not None
        bits, count = entry.weight_bits, int(np.prod(shape))
        if packs(bits):
            integers = unpack_unsigned(self.typed(f"{key}.weight_q", ((count + 1) // 2,), np.uint8), shape)
        else:
            integers = self.typed(f"{key}.weight_q", shape, np.uint8)
        if integers.max() >= 1 << bits:
            raise self.error(f"has integers outside {bits} bits in {key}")
        if entry.grid == "palette":
            groups = self.tensors[f"{key}.palette"].shape[0] if f"{key}.palette" in self.tensors else 1
            entries = self.typed(f"{key}.palette", (groups, 1 << bits), np.float16)
            if groups < 1 or shape[0] % groups:
                raise self.error(f"has {groups} palettes for the {shape[0]} channels of {key}")
            return Palette(bits, integers, entries)
        scale = self.typed(f"{key}.weight_scale", self._scale_shape(key, shape), np.float16)
        zero = self.typed(f"{key}.weight_zero", shape[:1], np.uint8)
        if not (scale > 0).all() or zero.max() >= 1 << bits:
            raise self.error(f"has a bad weight scale or zero point in {key}")
        return AffineWeight(bits, integers, scale, zero)

    def _scale_shape(self, key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """One scale for an output channel, or one for each of its blocks of input channels."""
        stored = self.tensors.get(f"{key}.weight_scale")
        if stored is None or stored.ndim != 2:
            return shape[:1]
        blocks = stored.shape[1]
        if blocks < 1 or shape[1] % blocks:
            raise self.error(f"has {blocks} scales for the {shape[1]} input channels of {key}")
        return (shape[0], blocks)

    def rest(self) -> dict[str, Array]:
        rest = {key: self.tensors[key] for key in self.tensors if key not in self.taken}
        for key, value in rest.items():
            self.expect(key, value.shape)
        return rest


class GridReader:
    """Takes activation grids out of ``activations.safetensors``."""

    def __init__(self, reader: TensorReader, steps: int) -> None:
        self.reader, self.steps = reader, steps

    def read(self, key: str) -> StepGrid:
        shape = (self.steps,)
        bits = self.reader.typed(f"{key}.bits", shape, np.uint8)
        scale = self.reader.typed(f"{key}.scale", shape, np.float32)
        zero = self.reader.typed(f"{key}.zero", shape, np.int32)
        in_range = (bits >= 2) & (bits <= MAX_ACTIVATION_BITS)
        if not (in_range.all() and (scale > 0).all() and (zero >= 0).all() and (zero < 2.0**bits).all()):
            raise self.reader.error(f"has a bad activation grid {key}")
        return StepGrid(bits, scale, zero)


def time_tables(
    reader: TensorReader, tables: dict[str, Array], resnets: dict[str, int], steps: int
) -> dict[str, NDArray[np.float32]]:
    for name, channels in resnets.items():
        table = tables.get(f"{name}.time")
        if table is None or table.shape != (steps, channels) or not np.isfinite(table).all():
            raise reader.error(f"has no valid time table of {name}")
    return {f"{name}.time": tables[f"{name}.time"].astype(np.float32) for name in resnets}
