"""From a prompt to a picture with nothing but a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from s2p_runtime.backends import Array32, Backend
from s2p_runtime.bundle import Bundle, PictureSize
from s2p_runtime.conditioning import bundle_tokenizers, conditioner_of, encode_prompt, tokens_dropped
from s2p_runtime.errors import S2PError
from s2p_runtime.plan import ImageStart
from s2p_runtime.tokenizer import ClipTokenizer


class BundleArtist:
    """A bundle on a backend: its own text encoder, U-Net and decoder, whose batch is fixed to one prompt.

    See :class:`s2p_runtime.artist.Artist`.
    """

    batch = 1

    def __init__(self, bundle: Bundle, backend: Backend, size: PictureSize | None = None) -> None:
        """
        Args:
            size: one of the manifest's; None: the bundle's own.
        """
        manifest = bundle.manifest
        self.name, self.plan, self.guidance = bundle.folder.name, manifest.plan, manifest.guidance
        latents = manifest.latents
        height, width = (latents.height, latents.width) if size is None else (size.latent_height, size.latent_width)
        self.latent_shape = (1, latents.channels, height, width)
        self._bundle, self._backend, self._size = bundle, backend, size
        self._ports = tuple(conditioner_of(manifest).inputs)

    @cached_property
    def _tokenizers(self) -> dict[str, ClipTokenizer]:
        return bundle_tokenizers(self._bundle)

    def conditions(self, prompts: Sequence[str], negative_prompt: str | None = None) -> tuple[Array32, ...]:
        """See :class:`s2p_runtime.artist.Artist`; of a single prompt."""
        (prompt,) = prompts
        told = encode_prompt(self._bundle, self._backend, self._tokenizers, prompt, self._size, negative_prompt)
        return tuple(told.inputs.values())

    def predict(self, samples: Array32, call: int, *conditions: Array32) -> Array32:
        """See :class:`s2p_runtime.artist.Artist`."""
        return self._backend.predict(samples, call, dict(zip(self._ports, conditions, strict=True)))

    def decode(self, states: Array32) -> Array32:
        """See :class:`s2p_runtime.artist.Artist`."""
        return np.concatenate([decode_latents(self._bundle, self._backend, state[None]) for state in states])

    def image_starts(self) -> tuple[ImageStart, ...]:
        """See :class:`s2p_runtime.artist.Artist`."""
        manifest = self._bundle.manifest
        if manifest.image_starts is None:
            raise S2PError(
                f"{self.name} has no VAE encoder, so it cannot start from a picture",
                "convert with `image_to_image`, or leave `image` out",
                "image",
            )
        return manifest.image_starts

    @property
    def picture_size(self) -> tuple[int, int]:
        """See :class:`s2p_runtime.artist.Artist`."""
        size = self._size or self._bundle.manifest.sizes[0]
        return size.width, size.height

    def encode(self, image: Array32) -> Array32:
        """See :class:`s2p_runtime.artist.Artist`."""
        return self._bundle.manifest.latents.encoded(self._backend.encode(image))

    def tokens_dropped(self, prompt: str) -> int:
        """See :class:`s2p_runtime.artist.Artist`."""
        return tokens_dropped(self._tokenizers, prompt)


def decode_latents(bundle: Bundle, backend: Backend, latents: Array32) -> Array32:
    """Final state -> decoder output [1, 3, 8H, 8W]."""
    return backend.decode(bundle.manifest.latents.decoder_input(latents))
