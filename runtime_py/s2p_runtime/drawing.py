"""From a prompt to a picture with nothing but a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.backends import Array32, Backend
from s2p_runtime.bundle import Bundle, PictureSize
from s2p_runtime.conditioning import Conditions, bundle_tokenizer, encode_prompt
from s2p_runtime.pictures import to_picture
from s2p_runtime.plan import denoise, guide, initial_latents


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


def draw_latents(
    bundle: Bundle,
    backend: Backend,
    conditions: Conditions,
    latents: Array32,
    seed: int,
    on_call: Callable[[int, Array32], None] | None = None,
) -> Array32:
    """The whole denoising loop.

    Args:
        conditions: of the prompt.
        latents: x_0, float32 [1, C, H, W].
        on_call: called with (index, raw U-Net output [B, C, H, W]).
    """
    manifest = bundle.manifest

    def predict(sample: Array32, call: int) -> Array32:
        output = backend.predict(np.repeat(sample, conditions.branches, axis=0), call, conditions.inputs)
        if on_call is not None:
            on_call(call, output)
        return guide(output, manifest.guidance)

    return denoise(manifest.plan, predict, latents, seed)


def decode_latents(bundle: Bundle, backend: Backend, latents: Array32) -> Array32:
    """Final state -> decoder output [1, 3, 8H, 8W]."""
    return backend.decode(bundle.manifest.latents.decoder_input(latents))


def draw(
    bundle: Bundle,
    backend: Backend,
    prompt: str,
    seed: int,
    on_call: Callable[[int, Array32], None] | None = None,
    size: PictureSize | None = None,
    negative_prompt: str | None = None,
) -> Drawing:
    """Draw a prompt from Philox noise of ``seed``.

    Args:
        on_call: called with (index, raw U-Net output [B, C, H, W]).
        size: one of the manifest's; None: the bundle's own.
        negative_prompt: what not to draw; see :func:`s2p_runtime.conditioning.encode_prompt`.

    Raises:
        S2PError: a negative prompt for a bundle without guidance, or a component cannot run.
    """
    manifest = bundle.manifest
    chosen = size or manifest.sizes[0]
    tokenizer = bundle_tokenizer(bundle)
    conditions = encode_prompt(bundle, backend, tokenizer, prompt, size, negative_prompt)
    shape = (1, manifest.latents.channels, chosen.latent_height, chosen.latent_width)
    start = initial_latents(manifest.plan, seed, shape)
    latents = draw_latents(bundle, backend, conditions, start, seed, on_call)
    picture = to_picture(decode_latents(bundle, backend, latents))
    dropped = (tokenizer.tokens_dropped(text) for text in (prompt, negative_prompt or ""))
    return Drawing(picture, latents, *dropped)
