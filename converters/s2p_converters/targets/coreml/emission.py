"""Puts the checkpoint's own integers into the program: each weight constant becomes a compressed constant of the chosen form.

Nothing is clustered or fitted again. Indices are the integers plus an offset; a table lists every integer of the grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import QuantizedLayer
from s2p_converters.targets.coreml.layers import weight_shift
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_runtime.quiet import quiet_import

with quiet_import():
    from coremltools.converters.mil.mil import Block, Program, types
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.converters.mil.mil.passes.pass_registry import register_pass

PASS_NAME = "s2p::emit_weights"
_SMALLEST_INDEX_BITS = (2, 4, 6, 8)
"""Index widths that every supported OS has; a grid of another width uses the next one."""

Form = Literal["lut16", "lut18", "affine", "shift_scale"]


@dataclass(frozen=True)
class EmittedWeight:
    """A weight constant to be written.

    Attributes:
        layer: integers and channel scales.
        form: ``lut16`` / ``lut18`` (look-up tables of iOS16 / iOS18), ``affine`` (iOS16 int8), ``shift_scale`` (iOS18 int8).
        scale: float64 [1] (per tensor) or [C_out]: entries are ``scale * integer``, exact in float64.
        dtype: float16 or float32, the program's precision.
        integer_table: ``lut18`` whose entries rest as int8 with their scale beside them. Apple's guide to joint compression and
            coreai-optimization's ask for it: beside int8 activations such a layer multiplies integers, one with a table of floats
            does not.
    """

    layer: QuantizedLayer
    form: Form
    scale: NDArray[np.float64]
    dtype: type[np.floating[Any]]
    integer_table: bool = False

    @property
    def is_palette(self) -> bool:
        """Whether the weight rests as indices into look-up tables."""
        return self.form in ("lut16", "lut18")

    @property
    def index_bits(self) -> int:
        """Width of a palette's indices."""
        return next(bits for bits in _SMALLEST_INDEX_BITS if bits >= self.layer.weight_bits)

    @property
    def scheme(self) -> str:
        """For people: the form and its granularity."""
        granularity = "per-tensor" if self.scale.size == 1 else "per-channel"
        if self.is_palette:
            return f"{1 << self.index_bits}-entry {'int8 ' if self.integer_table else ''}palette {granularity}"
        return f"int8 linear {granularity}"

    @property
    def stored_bytes(self) -> int:
        """Bytes of indices or integers, tables, per-tensor factors and channel scales."""
        item = np.dtype(self.dtype).itemsize
        channels = self.layer.spec.out_channels
        after = item * channels if self.scale.size == 1 else 0
        if self.is_palette:
            indices = (self.layer.spec.weights * self.index_bits + 7) // 8
            entries = self.scale.size * (1 << self.index_bits)
            return indices + (entries + self.scale.size * item if self.integer_table else entries * item) + after
        return self.layer.spec.weights + self.scale.size * item + after


def emitted_weight(layer: QuantizedLayer, options: CoreMLOptions) -> EmittedWeight:
    """The form of one layer's weight under the options."""
    modern = options.minimum_os == "iOS18"
    if layer.weight_bits > 6 and options.eight_bit == "linear":
        form: Form = "shift_scale" if modern else "affine"
    else:
        form = "lut18" if modern else "lut16"
    per_tensor = np.array([2.0 ** -weight_shift(layer, options)])
    scale = layer.scale.astype(np.float64) if options.per_channel else per_tensor
    integer_table = form == "lut18" and options.quantizes_activations and layer.activation_bits is not None
    return EmittedWeight(layer, form, scale, np.float16 if options.half else np.float32, integer_table)


def constant_name(layer_name: str) -> str:
    """Name that torch.export gives the weight of a module."""
    return f"p_{layer_name.replace('.', '_')}_weight"


@dataclass
class WeightTable:
    """Weights by the name of the constant they replace, which of them were placed, and the look-up tables that they share."""

    weights: Mapping[str, EmittedWeight]
    placed: set[str] = field(default_factory=set)
    tables: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """Constants that the program did not have."""
        return sorted(set(self.weights) - self.placed)


@register_pass(namespace="s2p")
class emit_weights(AbstractGraphPass):
    """Replaces weight constants by name; the registry derives the pass's name from the class's.

    In a float16 program it runs ahead of the pass that casts constants, which therefore never sees a dense weight.
    """

    table: WeightTable = WeightTable({})

    def apply(self, prog: Program) -> None:
        for function in prog.functions.values():
            with function:
                _replace(function, self.table)


def _replace(block: Block, table: WeightTable) -> None:
    for op in list(block.operations):
        if op.op_type != "const":
            continue
        weight = table.weights.get(op.name)
        if weight is None:
            continue
        old = op.outputs[0]
        if weight.dtype == np.float16:
            # As wide as the consumer's other inputs until all are cast to float16, when the two casts cancel out.
            consumer = old.child_ops[0]
            narrow = _compressed(weight, f"{op.name}_to_fp16", consumer, table)
            new = mb.cast(x=narrow, dtype="fp32", before_op=consumer, name=f"{op.name}_wide")
        else:
            new = _compressed(weight, op.name, op, table)
        block.replace_uses_of_var_after_op(anchor_op=op, old_var=old, new_var=new, force_replace=True)
        block.remove_ops([op])
        table.placed.add(op.name)


def _compressed(weight: EmittedWeight, name: str, before: Any, table: WeightTable) -> Any:
    layer = weight.layer
    shape = layer.spec.weight_shape
    if weight.form == "affine":
        scale = weight.scale.astype(weight.dtype)
        return mb.constexpr_affine_dequantize(
            quantized_data=layer.integers,
            zero_point=np.int8(0),
            scale=scale[0] if scale.size == 1 else scale,
            axis=np.int32(0),
            before_op=before,
            name=name,
        )
    if weight.form == "shift_scale":
        scale = weight.scale.astype(weight.dtype).reshape(-1, *([1] * (len(shape) - 1)))
        return mb.constexpr_blockwise_shift_scale(data=layer.integers, scale=scale, before_op=before, name=name)
    return _palette(weight, name, before, table)


def _palette(weight: EmittedWeight, name: str, before: Any, table: WeightTable) -> Any:
    bits = weight.index_bits
    offset = 1 << (bits - 1)
    grid = np.arange(-offset, offset, dtype=np.int16)
    # Wraps around as it should: -8 + 8 = 0, and -128 + 128 = 256 - 256.
    indices = weight.layer.integers.view(np.uint8) + np.uint8(offset)
    shape = weight.layer.spec.weight_shape
    if weight.form == "lut16":
        entries = (weight.scale * grid).astype(weight.dtype)
        return mb.constexpr_lut_to_dense(
            indices=_packed(indices, bits), lut=entries, shape=np.array(shape, np.uint32), before_op=before, name=name
        )
    narrow = types.nptype_from_builtin(types.string_to_builtin(f"uint{bits}"))
    lut = _table(weight, grid, before, table)
    return mb.constexpr_lut_to_dense(indices=indices.astype(narrow), lut=lut, before_op=before, name=name)


def _table(weight: EmittedWeight, grid: NDArray[np.int16], before: Any, table: WeightTable) -> Any:
    """A table of iOS 18, [1 or C_out, 1, ..., entries, 1]; layers with the same integers and scale share theirs."""
    groups, ones = weight.scale.size, [1] * (len(weight.layer.spec.weight_shape) - 1)
    scale = weight.scale.reshape(groups, *ones, 1, 1).astype(weight.dtype)
    if not weight.integer_table:
        return (scale.astype(np.float64) * grid[:, None]).astype(weight.dtype)
    key = (grid.size, scale.shape, scale.tobytes())
    if key not in table.tables:
        entries = np.broadcast_to(grid[:, None].astype(np.int8), (groups, *ones, grid.size, 1))
        first = before.enclosing_block.operations[0]
        table.tables[key] = mb.constexpr_blockwise_shift_scale(
            data=np.ascontiguousarray(entries), scale=scale, before_op=first, name=f"lut{len(table.tables)}"
        )
    return table.tables[key]


def _packed(indices: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Indices packed from the least significant bit of each byte upwards, as iOS16 stores them."""
    flat = indices.reshape(-1)
    if bits == 8:
        return flat
    if 8 % bits:
        each = np.unpackbits(flat[:, None], axis=1, count=bits, bitorder="little")
        return np.packbits(each.reshape(-1), bitorder="little")
    per_byte = 8 // bits
    rows = np.pad(flat, (0, -flat.size % per_byte)).reshape(-1, per_byte)
    packed = rows[:, 0].copy()
    for place in range(1, per_byte):
        packed |= rows[:, place] << np.uint8(bits * place)
    return packed
