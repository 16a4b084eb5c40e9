"""Draws a prompt with a model, a checkpoint or a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from s2p_converters.core.checkpoint import open_checkpoint
from s2p_converters.core.plan import plan_for
from s2p_mobile.judge.source_kind import source_kind
from s2p_mobile.sources.model import DEMO_NAME, open_model
from s2p_mobile.sources.pixel_size import PixelSize
from s2p_mobile.sources.torch_artist import checkpoint_artist, model_artist
from s2p_runtime.artist import Artist, Drawing, check_negative_prompt, draw
from s2p_runtime.bundle import open_bundle
from s2p_runtime.drawing import BundleArtist
from s2p_runtime.engines import open_backend
from s2p_runtime.errors import S2PError
from s2p_runtime.progress import Progress


def open_artist(
    source: str,
    *,
    scheduler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    size: str | None = None,
    loras: Sequence[str] = (),
    release_chunks: bool = False,
) -> Artist:
    """Open whatever ``source`` is, ready to draw.

    Args:
        size: ``WIDTHxHEIGHT`` in pixels, of a model or one of a bundle's.
        loras: ``FILE[:scale]`` each, fused into a model.
        release_chunks: see :func:`s2p_runtime.engines.open_backend`.

    Raises:
        S2PError: ``source`` is none of the three, a checkpoint or bundle is asked for another sampler than its own or for LoRA, a
            size that the source does not draw, or programs to be released of a U-Net that is but one.
    """
    folder, kind = Path(source), source_kind(source)
    if source != DEMO_NAME and not folder.exists():
        raise S2PError(f"{source} does not exist", "give 'demo', a model folder, a checkpoint or a bundle")
    if release_chunks and kind != "bundle":
        raise S2PError("`release_chunks` is for bundles converted with `chunks`", "leave it out", "release_chunks")
    if kind == "model":
        model = open_model(source, None if size is None else PixelSize.parse(size), loras)
        chosen = model.choose_guidance(guidance)
        return model_artist(model, plan_for(model.folder / "scheduler", scheduler, steps or model.steps), chosen)
    if not (scheduler is None and steps is None and guidance is None):
        raise S2PError(f"{source} was made for one sampling plan", "leave `scheduler`, `steps` and `guidance` out", "scheduler")
    if loras:
        raise S2PError(
            f"{source} holds its weights as they are", "fuse LoRA into the model before, with quantize `lora`", "lora"
        )
    if kind == "bundle":
        bundle = open_bundle(folder)
        drawn = None if size is None else bundle.manifest.size_named(size)
        return BundleArtist(bundle, open_backend(bundle, release_chunks=release_chunks), drawn)
    if size is not None:
        raise S2PError(f"{source} draws one size", "leave `size` out, or make a bundle of it with convert `size`", "size")
    return checkpoint_artist(source, open_checkpoint(folder))


def draw_with(artist: Artist, prompt: str, seed: int, negative_prompt: str | None, progress: Progress) -> Drawing:
    """:func:`s2p_runtime.artist.draw`, call by call in sight.

    Raises:
        S2PError: a negative prompt without guidance.
    """
    check_negative_prompt(negative_prompt, artist.guidance)
    with progress.stage("drawing", len(artist.plan.calls)) as advance:
        return draw(artist, prompt, seed, negative_prompt, lambda *_: advance())
