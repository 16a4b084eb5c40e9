"""Opens whatever draws, and draws with it in sight."""

from __future__ import annotations

import torch

from s2p_converters.core.checkpoint import Checkpoint
from s2p_mobile.sources.session import Session
from s2p_mobile.sources.torch_artist import checkpoint_artist, model_artist
from s2p_runtime.artist import Artist, Drawing, FromPicture, draw, image_start
from s2p_runtime.bundle import Bundle
from s2p_runtime.drawing import BundleArtist
from s2p_runtime.engines import open_backend
from s2p_runtime.errors import S2PError
from s2p_runtime.progress import Progress


def open_artist(
    source: Session | Checkpoint | Bundle,
    device: torch.device,
    *,
    size: str | None = None,
    release_chunks: bool = False,
) -> Artist:
    """Make a source ready to draw.

    Args:
        source: a model with its sampling decided, a checkpoint or a bundle.
        device: where torch runs a checkpoint's U-Net; a session has its own, a bundle its engine's.
        size: ``WIDTHxHEIGHT`` in pixels, one of a bundle's; its own when None.
        release_chunks: see :func:`s2p_runtime.engines.open_backend`.

    Raises:
        S2PError: a size that the source does not draw, or programs to be released of a U-Net that is but one.
    """
    if isinstance(source, Bundle):
        chosen = None if size is None else source.manifest.size_named(size)
        return BundleArtist(source, open_backend(source, release_chunks=release_chunks), chosen)
    if release_chunks:
        raise S2PError("`release_chunks` is for bundles converted with `chunks`", "leave it out", "release_chunks")
    if isinstance(source, Session):
        return model_artist(source.model, source.plan, source.guidance, source.device)
    if size is not None:
        raise S2PError(
            f"{source.folder} draws one size", "leave `size` out, or make a bundle of it with convert `size`", "size"
        )
    return checkpoint_artist(str(source.folder), source, device=device)


def draw_with(
    artist: Artist, prompt: str, seed: int, negative_prompt: str | None, progress: Progress, image: FromPicture | None = None
) -> Drawing:
    """:func:`s2p_runtime.artist.draw`, call by call in sight.

    Raises:
        S2PError: what that refuses.
    """
    skipped = 0 if image is None else image_start(artist, image.strength).call
    with progress.stage("drawing", len(artist.plan.calls) - skipped) as advance:
        return draw(artist, prompt, seed, negative_prompt, lambda *_: advance(), image)
