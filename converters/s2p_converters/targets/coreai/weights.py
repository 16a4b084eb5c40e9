"""How a layer's integers rest in a Core AI program: as packed integers, or as indices into a table that lists its grid.

Nothing is clustered or fitted again. Both forms denote ``q * 2^-k`` exactly; the real scale of each channel stands behind the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import QuantizedLayer
from s2p_converters.targets.coreai.options import CoreAIOptions
from s2p_runtime.errors import S2PError

FLOAT16_MAX = 65504.0
SMALLEST_FLOAT16 = 2.0**-14
"""Smallest normal number: below it float16 loses bits."""
_INTEGER_BITS = (2, 4, 8)
_INDEX_BITS = (2, 3, 4, 6, 8)
"""Widths that Core AI has. A grid of another width uses the next one."""
_FLOAT_INPUT_BOUND = 2047.0
"""Largest input magnitude that a layer with float activations must stand when the checkpoint does not know the real one."""


@dataclass(frozen=True)
class EmittedWeight:
    """The weight of a layer as it is written.

    Attributes:
        layer: integers and channel scales.
        form: indices into a table, or packed integers.
        bits: stored width of one weight.
        shift: k; entries are ``q * 2^-k``.
        item: bytes of one float of the program.
    """

    layer: QuantizedLayer
    form: Literal["palette", "integers"]
    bits: int
    shift: int
    item: int

    @property
    def scheme(self) -> str:
        """For people."""
        return f"{1 << self.bits}-entry palette per-tensor" if self.form == "palette" else f"int{self.bits} linear per-channel"

    @property
    def stored_bytes(self) -> int:
        """Bytes of integers or indices, of table or factor, and of the channels' scales."""
        beside = self.item << self.bits if self.form == "palette" else self.item
        return (self.layer.spec.weights * self.bits + 7) // 8 + beside + self.item * self.layer.spec.out_channels

    @property
    def table(self) -> NDArray[np.float64]:
        """Entries of a palette, ascending: [2^bits]."""
        half = 1 << (self.bits - 1)
        found: NDArray[np.float64] = np.arange(-half, half) * np.float64(2.0**-self.shift)
        return found

    @property
    def stored(self) -> NDArray[np.uint8]:
        """Integers in two's complement, or indices, of the layer's shape; the low ``bits`` of each byte are written."""
        found: NDArray[np.uint8] = self.layer.integers.view(np.uint8)
        # Wraps around as it should: -8 + 8 = 0, and -128 + 128 = 256 - 256.
        return found if self.form == "integers" else found + np.uint8(1 << (self.bits - 1))

    @property
    def factor(self) -> NDArray[np.float64]:
        """What the layer's output is multiplied by: [C_out]."""
        found: NDArray[np.float64] = self.layer.scale.astype(np.float64) * 2.0**self.shift
        return found


def emitted_weight(layer: QuantizedLayer, options: CoreAIOptions) -> EmittedWeight:
    """The form of one layer's weight: the one that takes fewer bytes, unless the options say otherwise.

    Raises:
        S2PError: the layer can overflow float16, or has a scale that float16 does not hold.
    """
    item = 2 if options.half else 4
    shift = _shift(layer, options)
    palette, integers = (
        next(width for width in widths if width >= layer.weight_bits) for widths in (_INDEX_BITS, _INTEGER_BITS)
    )
    forms = [
        EmittedWeight(layer, "palette", palette, shift, item),
        EmittedWeight(layer, "integers", integers, shift, item),
    ]
    chosen = [one for one in forms if options.weights in ("auto", one.form)]
    emitted = min(chosen, key=lambda one: one.stored_bytes)
    if options.half:
        _check_float16(emitted, options)
    return emitted


def _shift(layer: QuantizedLayer, options: CoreAIOptions) -> int:
    """Smallest k, 3 or 7 at least, with which the layer's largest possible sum fits float16: ``max_c sum |q_c| 2^-k max |x|``."""
    shift = 3 if layer.weight_bits <= 4 else 7
    if not options.half:
        return shift
    # The magnitude of -128 is right as an unsigned byte.
    sums = np.abs(layer.integers.reshape(layer.spec.out_channels, -1)).view(np.uint8).sum(axis=1, dtype=np.int64)
    largest = float(sums.max()) * largest_input(layer, options)
    while largest * 2.0**-shift > FLOAT16_MAX:
        shift += 1
    return shift


def largest_input(layer: QuantizedLayer, options: CoreAIOptions) -> float:
    """Largest magnitude that the layer's input has at any call."""
    if not options.quantizes_activations or layer.activation_scale is None:
        return _FLOAT_INPUT_BOUND
    return float(layer.activation_scale.max()) * max(map(abs, layer.activation_range))


def _check_float16(emitted: EmittedWeight, options: CoreAIOptions) -> None:
    layer = emitted.layer
    if emitted.shift > 23 or emitted.factor.max() > FLOAT16_MAX:
        raise S2PError(f"layer {layer.spec.name} can overflow float16", "pass `precision=fp32`", "precision")
    check_activation_scale(layer, options)


def check_activation_scale(layer: QuantizedLayer, options: CoreAIOptions) -> None:
    """Demand scales that the program's precision holds; nothing is read for it.

    Raises:
        S2PError: float16 does not hold one of them.
    """
    scales = layer.activation_scale if options.half and options.quantizes_activations else None
    if scales is not None and not SMALLEST_FLOAT16 <= scales.min() <= scales.max() <= FLOAT16_MAX:
        raise S2PError(
            f"layer {layer.spec.name} has an activation scale outside the float16 range", "pass `precision=fp32`", "precision"
        )


def packed(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The low bits of each value, from the least significant bit of each byte upwards, C order: uint8 [ceil(n * bits / 8)]."""
    flat = values.reshape(-1)
    if bits == 8:
        return np.ascontiguousarray(flat)
    if 8 % bits:
        each = np.unpackbits(flat[:, None], axis=1, count=bits, bitorder="little")
        return np.packbits(each.reshape(-1), bitorder="little")
    per_byte = 8 // bits
    rows = np.pad(flat & np.uint8((1 << bits) - 1), (0, -flat.size % per_byte)).reshape(-1, per_byte)
    found = rows[:, 0].copy()
    for place in range(1, per_byte):
        found |= rows[:, place] << np.uint8(bits * place)
    return found
