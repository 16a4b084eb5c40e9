"""What draws pictures, whatever stands behind it, and the one way to draw with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.errors import S2PError
from s2p_runtime.pictures import from_picture, to_picture
from s2p_runtime.plan import ImageStart, SamplingPlan, skipped_steps
from s2p_runtime.walker import Array32, Walker, guide_runs, picture_latents

Observe = Callable[[int, Array32, Array32], None]
"""(call index, scaled states [K, C, H, W], raw model outputs [K, B, C, H, W])"""


class Artist(Protocol):
    """A model, a checkpoint or a bundle, ready to draw under one plan.

    Attributes:
        name: for messages.
        plan, guidance: what it draws with; above a guidance of 1 a prompt has two branches (B = 2), the unconditional one first.
        latent_shape: [1, C, H, W] of one prompt.
        batch: how many prompts one call of its model takes at most.
    """

    @property
    def name(self) -> str: ...
    @property
    def plan(self) -> SamplingPlan: ...
    @property
    def guidance(self) -> float: ...
    @property
    def latent_shape(self) -> tuple[int, int, int, int]: ...
    @property
    def batch(self) -> int: ...

    def conditions(self, prompts: Sequence[str], negative_prompt: str | None = None) -> tuple[Array32, ...]:
        """What the model is told about K prompts: arrays of K B entries, one prompt's branches after the other's.

        Args:
            negative_prompt: what the unconditional branch is told instead of the empty text.
        """
        ...

    def predict(self, samples: Array32, call: int, *conditions: Array32) -> Array32:
        """Raw model output for scaled states [K B, C, H, W] under :meth:`conditions`."""
        ...

    def decode(self, states: Array32) -> Array32:
        """Final states [K, C, H, W] -> decoder outputs [K, 3, H_image, W_image] in [-1, 1]."""
        ...

    def image_starts(self) -> tuple[ImageStart, ...]:
        """Where runs from a picture begin, one to each step of the plan.

        Raises:
            S2PError: it draws from noise only.
        """
        ...

    @property
    def picture_size(self) -> tuple[int, int]:
        """Width and height of what it draws, in pixels."""
        ...

    def encode(self, image: Array32) -> Array32:
        """A picture [1, 3, H_image, W_image] in [-1, 1] -> its latents [1, C, H, W]; see
        :meth:`s2p_runtime.bundle.LatentSpec.encoded`."""
        ...

    def tokens_dropped(self, prompt: str) -> int:
        """How many tokens of a prompt the text encoder does not see."""
        ...


@dataclass(frozen=True)
class FromPicture:
    """A picture to start from.

    Attributes:
        picture: uint8 [H, W, 3], of the size that is drawn; see :func:`s2p_runtime.pictures.fitted_picture`.
        strength: how much of it is drawn anew, above 0 and at most 1; see :func:`s2p_runtime.plan.skipped_steps`.
    """

    picture: NDArray[np.uint8]
    strength: float


@dataclass(frozen=True)
class Drawing:
    """A drawn picture.

    Attributes:
        picture: uint8 [H, W, 3].
        latents: final state, float32 [1, C, H, W].
        tokens_dropped: how many tokens of the prompt did not fit the text encoder.
        negative_tokens_dropped: the same of the negative prompt.
    """

    picture: NDArray[np.uint8]
    latents: Array32
    tokens_dropped: int
    negative_tokens_dropped: int = 0


def check_negative_prompt(negative_prompt: str | None, guidance: float) -> None:
    """Raise :class:`S2PError` where a negative prompt would have no effect: without guidance there is no unconditional branch."""
    if negative_prompt is not None and guidance <= 1:
        raise S2PError(
            f"a negative prompt has no effect at guidance {guidance:g}",
            "leave `negative_prompt` out, or draw with a guidance above 1",
            "negative_prompt",
        )


def final_states(
    artist: Artist,
    conditions: Sequence[Array32],
    seeds: Sequence[int],
    observe: Observe | None = None,
    latents: Array32 | None = None,
    start: ImageStart | None = None,
) -> Array32:
    """Draw K runs side by side and return their final states, float32 [K, C, H, W].

    Args:
        conditions: of :meth:`Artist.conditions`.
        seeds: K of them.
        observe: called after each call.
        latents: x_0 of the runs, float32 [K, C, H, W]; the noise of their seeds when None. With a start, x of its call.
        start: of runs from a picture.
    """
    branches = conditions[0].shape[0] // len(seeds)

    def predict(scaled: Array32, call: int) -> Array32:
        outputs = artist.predict(np.repeat(scaled, branches, axis=0), call, *conditions)
        runs = outputs.reshape(len(seeds), branches, *outputs.shape[1:])
        if observe is not None:
            observe(call, scaled, runs)
        return guide_runs(runs, artist.guidance)

    if latents is None:
        return Walker.from_seeds(artist.plan, seeds, artist.latent_shape).run(predict)
    return Walker(artist.plan, latents, seeds, start).run(predict)


def image_start(artist: Artist, strength: float) -> ImageStart:
    """Where a run from a picture begins.

    Raises:
        S2PError: the artist draws from noise only, or a strength out of range.
    """
    return artist.image_starts()[skipped_steps(artist.plan.steps, strength)]


def draw(
    artist: Artist,
    prompt: str,
    seed: int,
    negative_prompt: str | None = None,
    observe: Observe | None = None,
    image: FromPicture | None = None,
) -> Drawing:
    """Draw a prompt from the noise of its seed, or from a picture with that noise on it (Meng et al. 2022, arXiv 2108.01073).

    Args:
        negative_prompt: what to stay away from; None: the empty text, as the model's family takes it.
        observe: called after each call.
        image: the picture to start from.

    Raises:
        S2PError: a negative prompt without guidance, and what :func:`image_start` refuses.
    """
    check_negative_prompt(negative_prompt, artist.guidance)
    start = None if image is None else image_start(artist, image.strength)
    first = None
    if image is not None and start is not None:
        first = picture_latents(start, artist.encode(from_picture(image.picture)), seed)
    latents = final_states(artist, artist.conditions([prompt], negative_prompt), [seed], observe, first, start)
    picture = to_picture(artist.decode(latents))
    dropped = (artist.tokens_dropped(text) for text in (prompt, negative_prompt or ""))
    return Drawing(np.ascontiguousarray(picture), latents, *dropped)
