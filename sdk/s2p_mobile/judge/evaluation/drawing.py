"""Drawing many prompts, several to a U-Net call, with the states on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.artist import Artist, final_states
from s2p_runtime.errors import S2PError
from s2p_runtime.pictures import to_picture
from s2p_runtime.walker import Array32


@dataclass(frozen=True)
class Drawings:
    """N drawn prompts.

    Attributes:
        pictures: uint8 [N, H, W, 3].
        states: float32 [N, T, C, h, w]; ``states[:, i]`` is what call i led to: x_{i+1} times the next call's input scale,
            and after the last call the final state x_T itself.
    """

    pictures: NDArray[np.uint8]
    states: Array32


def draw(artist: Artist, prompts: Sequence[str], seeds: Sequence[int], advance: Callable[[], None] = lambda: None) -> Drawings:
    """Draw each prompt from its own seed.

    Args:
        advance: called after each picture.

    Raises:
        S2PError: the U-Net gave a NaN or infinity.
    """
    pictures, states = [], []
    for start in range(0, len(prompts), artist.batch):
        part = slice(start, start + artist.batch)
        trajectory = _trajectory(artist, prompts[part], seeds[part])
        states.append(trajectory)
        for final in trajectory[:, -1]:
            pictures.append(to_picture(artist.decode(final[None])))
            advance()
    return Drawings(np.stack(pictures), np.concatenate(states))


def _trajectory(artist: Artist, prompts: Sequence[str], seeds: Sequence[int]) -> Array32:
    """States of some prompts, [N, T, C, h, w], as :class:`Drawings` orders them."""
    seen: list[Array32] = []

    def observe(call: int, scaled: Array32, outputs: Array32) -> None:
        seen.append(scaled)
        if not np.isfinite(outputs).all():
            worst = prompts[int(np.argwhere(~np.isfinite(outputs))[0][0])]
            raise S2PError(f"{artist.name} gives a NaN or infinity at call {call} of {worst!r}", "make it again")

    final = final_states(artist, artist.conditions(prompts), seeds, observe)
    return np.stack([*seen[1:], final], axis=1)
