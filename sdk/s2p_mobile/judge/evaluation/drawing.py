"""Drawing many prompts, several to a U-Net call, with the states on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s2p_mobile.judge.evaluation.makers import PictureMaker
from s2p_runtime.backends import Array32
from s2p_runtime.errors import S2PError
from s2p_runtime.pictures import to_picture
from s2p_runtime.plan import denoise, guide, initial_latents


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


def draw(
    maker: PictureMaker, prompts: Sequence[str], seeds: Sequence[int], advance: Callable[[], None] = lambda: None
) -> Drawings:
    """Draw each prompt from its own seed.

    Args:
        advance: called after each picture.

    Raises:
        S2PError: the U-Net gave a NaN or infinity.
    """
    # Fresh noise depends on the prompt's seed, which the sampling loop takes one of.
    batch = 1 if any(call.noise for call in maker.plan.calls) else maker.batch
    pictures, states = [], []
    for start in range(0, len(prompts), batch):
        trajectory = _trajectory(maker, prompts[start : start + batch], seeds[start : start + batch])
        states.append(trajectory)
        for final in trajectory[:, -1]:
            pictures.append(to_picture(maker.decode(final[None])))
            advance()
    return Drawings(np.stack(pictures), np.concatenate(states))


def _trajectory(maker: PictureMaker, prompts: Sequence[str], seeds: Sequence[int]) -> Array32:
    """States of some prompts, [N, T, C, h, w], as :class:`Drawings` orders them."""
    guided = maker.guidance > 1
    count = len(prompts)
    conditions = maker.conditions(prompts)
    seen: list[Array32] = []

    def predict(sample: Array32, call: int) -> Array32:
        output = maker.predict(np.concatenate([sample, sample]) if guided else sample, call, *conditions)
        if not np.isfinite(output).all():
            worst = prompts[int(np.argwhere(~np.isfinite(output))[0][0]) % count]
            raise S2PError(f"{maker.name} gives a NaN or infinity at call {call} of {worst!r}", "make it again")
        if not guided:
            return output
        pairs = output.reshape(2, count, *output.shape[1:])
        return np.concatenate([guide(pairs[:, k], maker.guidance) for k in range(count)])

    start = np.concatenate([initial_latents(maker.plan, seed, maker.latent_shape) for seed in seeds])
    final = denoise(maker.plan, predict, start, seeds[0], on_call=lambda _, scaled, __: seen.append(scaled))
    return np.stack([*seen[1:], final], axis=1)
