"""Integers in checkpoints, against a bit-by-bit reading."""

from __future__ import annotations

import numpy as np
import pytest

from s2p_converters.core.packing import integer_range, pack_nibbles, packs, unpack_nibbles


@pytest.mark.parametrize("shape", [(1,), (2, 3), (3, 5, 3, 3), (16, 1)])
def test_nibbles_keep_every_integer(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(-8, 8, shape).astype(np.int8)
    packed = pack_nibbles(values)
    for index, value in enumerate(values.reshape(-1)):
        nibble = (int(packed[index // 2]) >> (4 * (index % 2))) & 15
        assert (nibble - 16 if nibble > 7 else nibble) == value
    assert packed.size == (values.size + 1) // 2
    np.testing.assert_array_equal(unpack_nibbles(packed, shape), values)


def test_wrong_byte_count_is_refused() -> None:
    with pytest.raises(ValueError, match="do not hold 9"):
        unpack_nibbles(np.zeros(4, np.uint8), (9,))


def test_ranges_and_widths() -> None:
    assert [integer_range(b) for b in (2, 4, 8)] == [(-2, 1), (-8, 7), (-128, 127)]
    assert [packs(b) for b in (2, 3, 4, 5, 8)] == [True, True, True, False, False]
