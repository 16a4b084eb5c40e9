"""Sizes of pictures in pixels, and of their latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from s2p_converters.core.graph import UNetStructure
from s2p_runtime.bundle import LatentSpec, parse_size
from s2p_runtime.errors import S2PError


@dataclass(frozen=True)
class PixelSize:
    """Width and height in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @classmethod
    def parse(cls, text: str) -> PixelSize:
        """From ``WIDTHxHEIGHT``.

        Raises:
            S2PError: anything else.
        """
        return cls(*parse_size(text))

    @classmethod
    def of(cls, value: SizeLike | None) -> PixelSize | None:
        """From ``WIDTHxHEIGHT`` or a pair; None stays None.

        Raises:
            S2PError: anything else, or a number that is not positive.
        """
        if value is None or isinstance(value, PixelSize):
            return value
        return cls.parse(value if isinstance(value, str) else "x".join(map(str, value)))


SizeLike: TypeAlias = PixelSize | tuple[int, int] | str
"""Width and height in pixels: (512, 768) or ``512x768``."""


def vae_factor(vae_config: Mapping[str, Any]) -> int:
    """Pixels per latent position: each level of the VAE but the last halves."""
    return int(2 ** (len(vae_config.get("block_out_channels", (1, 1, 1, 1))) - 1))


def pixel_size(latents: LatentSpec, vae_config: Mapping[str, Any]) -> PixelSize:
    """Of the pictures that a VAE makes of such latents."""
    factor = vae_factor(vae_config)
    return PixelSize(latents.width * factor, latents.height * factor)


def latent_size(structure: UNetStructure, vae_config: Mapping[str, Any], size: PixelSize | None) -> tuple[int, int]:
    """Height and width of the latents.

    Args:
        size: of the pictures; None for the U-Net's own.

    Raises:
        S2PError: a size that the VAE or the U-Net does not halve without a remainder, or none where the U-Net has no own.
    """
    halved, factor = 2 ** sum(block.resample for block in structure.down), vae_factor(vae_config)
    if size is None:
        own = structure.sample_size
        if any(length is None or length % halved for length in own):
            what = "has no sample_size" if None in own else f"has a sample_size of {own[1]}x{own[0]}, no multiple of {halved}"
            raise S2PError(f"unet/config.json {what}", "say how large the pictures are with `size`, like 512x512", "size")
        return own
    multiple = factor * halved
    for word, length in (("width", size.width), ("height", size.height)):
        if length % multiple:
            near = max(multiple, round(length / multiple) * multiple)
            raise S2PError(
                f"{word} {length} of size {size} is not a multiple of {multiple}, which the U-Net needs",
                f"use {near}, for example",
            )
    return size.height // factor, size.width // factor
