"""Picture sizes of a bundle: the checkpoint's own and those asked for."""

from __future__ import annotations

from collections.abc import Sequence

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.float_modules import pixels_per_latent
from s2p_runtime.bundle import PictureSize
from s2p_runtime.errors import S2PError

LARGEST_PIXELS = 4096
"""Of one side. Attention over the latents of larger pictures does not fit a phone, and its conversion no workstation."""


def picture_sizes(checkpoint: Checkpoint, asked: Sequence[tuple[int, int]]) -> tuple[PictureSize, ...]:
    """The checkpoint's own size, which has the programs' default method, then the others asked for, each once.

    Args:
        asked: (width, height) in pixels.

    Raises:
        S2PError: a size that the U-Net cannot halve as often as it does, or one that is too large.
    """
    latents, factor = checkpoint.manifest.latents, pixels_per_latent(checkpoint)
    halvings = sum(block.resample for block in checkpoint.structure.down)
    step = factor << halvings
    own = (latents.width * factor, latents.height * factor)
    sizes = []
    for width, height in dict.fromkeys([own, *asked]):
        is_own = (width, height) == own
        if not is_own and (width % step or height % step):
            fitting = "x".join(str(max(step, round(side / step) * step)) for side in (width, height))
            raise S2PError(
                f"`size={width}x{height}` does not fit {checkpoint.manifest.source.name}, whose sides are multiples of {step}",
                f"try {fitting}",
                "size",
            )
        if max(width, height) > LARGEST_PIXELS:
            raise S2PError(f"`size={width}x{height}` is too large", f"give at most {LARGEST_PIXELS} pixels a side", "size")
        sizes.append(
            PictureSize(
                width=width,
                height=height,
                latent_width=width // factor,
                latent_height=height // factor,
                method=None if is_own else f"size_{width}x{height}",
                check=None if is_own else f"golden/size-{width}x{height}.safetensors",
            )
        )
    return tuple(sizes)


def latent_shapes(sizes: Sequence[PictureSize], default_method: str) -> dict[str, tuple[int, int]]:
    """Latent height and width by method name, the checkpoint's own first."""
    return {size.method or default_method: (size.latent_height, size.latent_width) for size in sizes}
