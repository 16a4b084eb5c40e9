"""Gaussian noise that is the same on every platform: Philox4x32-10 and Box-Muller.

Philox: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011); known answers from Random123.
The key is the 64-bit seed (low word first). The 128-bit counter is ``(block, 0, stream, 0)``: ``block`` counts groups of
four numbers, ``stream`` is 0 for the initial latents and ``i + 1`` for the fresh noise of call ``i``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint32(0x9E3779B9), np.uint32(0xBB67AE85))
_LOW32 = np.uint64(0xFFFFFFFF)


def philox4x32(counter: NDArray[np.uint32], key: NDArray[np.uint32], rounds: int = 10) -> NDArray[np.uint32]:
    """Philox4x32 bijection.

    Args:
        counter: uint32 [..., 4].
        key: uint32 [2].
        rounds: 10 in every published use.

    Returns:
        uint32 [..., 4], one random block per counter.
    """
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint32) for i in range(4))
    k0, k1 = np.uint32(key[0]), np.uint32(key[1])
    with np.errstate(over="ignore"):
        for _ in range(rounds):
            product0 = _MULTIPLIERS[0] * c0.astype(np.uint64)
            product1 = _MULTIPLIERS[1] * c2.astype(np.uint64)
            high0, low0 = (product0 >> np.uint64(32)).astype(np.uint32), (product0 & _LOW32).astype(np.uint32)
            high1, low1 = (product1 >> np.uint64(32)).astype(np.uint32), (product1 & _LOW32).astype(np.uint32)
            c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
            k0, k1 = np.uint32(k0 + _WEYL[0]), np.uint32(k1 + _WEYL[1])
    return np.stack([c0, c1, c2, c3], axis=-1)


def gaussian(seed: int, shape: tuple[int, ...], stream: int = 0) -> NDArray[np.float32]:
    """Standard normal float32 array of ``shape`` in C order.

    Numbers 4n..4n+3 come from block n: with ``u_k = (word_k + 0.5) / 2**32`` they are
    ``sqrt(-2 ln u_0) * (cos, sin)(2 pi u_1)`` and ``sqrt(-2 ln u_2) * (cos, sin)(2 pi u_3)``, computed in double and cast once.

    Args:
        seed: 0 <= seed < 2**64.
        shape: shape of the result.
        stream: 0 <= stream < 2**32; streams of one seed are independent.

    Raises:
        ValueError: seed or stream out of range.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed {seed} is not in [0, 2**64)")
    if not 0 <= stream < 2**32:
        raise ValueError(f"stream {stream} is not in [0, 2**32)")
    count = math.prod(shape)
    blocks = (count + 3) // 4
    counter = np.zeros((blocks, 4), np.uint32)
    counter[:, 0] = np.arange(blocks, dtype=np.uint32)
    counter[:, 2] = stream
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)
    uniform = (philox4x32(counter, key).astype(np.float64) + 0.5) / 2.0**32
    radius = np.sqrt(-2.0 * np.log(uniform[:, 0::2]))
    angle = 2.0 * math.pi * uniform[:, 1::2]
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return normal.reshape(-1)[:count].astype(np.float32).reshape(shape)
