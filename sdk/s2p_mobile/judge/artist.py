"""Draws a prompt with a model, a checkpoint or a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from s2p_converters.core.checkpoint import is_checkpoint, open_checkpoint
from s2p_converters.core.graph import StepUNet
from s2p_converters.core.plan import plan_for
from s2p_converters.core.reference import checkpoint_unet
from s2p_mobile.sources.components import Components
from s2p_mobile.sources.model import DEMO_NAME, open_model
from s2p_mobile.sources.picture_size import PictureSize
from s2p_mobile.sources.trajectory import draw_latents, encode_prompt, float_unet
from s2p_runtime.bundle import MANIFEST_NAME, open_bundle
from s2p_runtime.drawing import Drawing, draw
from s2p_runtime.engines import open_backend
from s2p_runtime.errors import S2PError
from s2p_runtime.pictures import to_picture
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.progress import Progress


def draw_source(
    source: str,
    prompt: str,
    seed: int,
    progress: Progress,
    *,
    scheduler: str | None,
    steps: int | None,
    guidance: float | None,
    size: str | None = None,
    loras: Sequence[str] = (),
    release_chunks: bool = False,
) -> Drawing:
    """Draw with whatever ``source`` is.

    Args:
        size: ``WIDTHxHEIGHT`` in pixels, of a model or one of a bundle's.
        loras: ``FILE[:scale]`` each, fused into a model.
        release_chunks: see :func:`s2p_runtime.engines.open_backend`.

    Raises:
        S2PError: ``source`` is none of the three, a checkpoint or bundle is asked for another sampler than its own or for LoRA, a
            size that the source does not draw, or programs to be released of a U-Net that is but one.
    """
    folder = Path(source)
    if source != DEMO_NAME and not folder.exists():
        raise S2PError(f"{source} does not exist", "give 'demo', a model folder, a checkpoint or a bundle")
    is_bundle = (folder / MANIFEST_NAME).is_file()
    if release_chunks and not is_bundle:
        raise S2PError("`release_chunks` is for bundles converted with `chunks`", "leave it out", "release_chunks")
    if source != DEMO_NAME and (is_bundle or is_checkpoint(folder)):
        if not (scheduler is None and steps is None and guidance is None):
            raise S2PError(
                f"{source} was made for one sampling plan", "leave `scheduler`, `steps` and `guidance` out", "scheduler"
            )
        if loras:
            raise S2PError(
                f"{source} holds its weights as they are", "fuse LoRA into the model before, with quantize `lora`", "lora"
            )
        if is_bundle:
            return _draw_bundle(folder, prompt, seed, progress, size, release_chunks)
        if size is not None:
            raise S2PError(f"{source} draws one size", "leave `size` out, or make a bundle of it with convert `size`", "size")
        return _draw_checkpoint(folder, prompt, seed, progress)
    model = open_model(source, None if size is None else PictureSize.parse(size), loras)
    chosen = model.choose_guidance(guidance)
    plan = plan_for(model.folder / "scheduler", scheduler, steps or model.steps)
    return _draw(model, float_unet(model, plan), plan, chosen, prompt, seed, progress)


def _draw_bundle(folder: Path, prompt: str, seed: int, progress: Progress, size: str | None, release_chunks: bool) -> Drawing:
    bundle = open_bundle(folder)
    chosen = None if size is None else bundle.manifest.size_named(size)
    backend = open_backend(bundle, release_chunks=release_chunks)
    with progress.stage("drawing", len(bundle.manifest.plan.calls)) as advance:
        return draw(bundle, backend, prompt, seed, lambda *_: advance(), chosen)


def _draw_checkpoint(folder: Path, prompt: str, seed: int, progress: Progress) -> Drawing:
    checkpoint = open_checkpoint(folder)
    manifest = checkpoint.manifest
    components = Components(folder, manifest.tokenizer, manifest.latents, manifest.conditioning)
    return _draw(components, checkpoint_unet(checkpoint).float(), manifest.plan, manifest.guidance, prompt, seed, progress)


def _draw(
    components: Components, unet: StepUNet, plan: SamplingPlan, guidance: float, prompt: str, seed: int, progress: Progress
) -> Drawing:
    encoded = encode_prompt(components, prompt, seed, guidance)
    with progress.stage("drawing", len(plan.calls)) as advance:
        latents = draw_latents(unet, plan, encoded, guidance, components.latent_shape, lambda *_: advance())
        picture = to_picture(components.decode(latents))
    return Drawing(np.ascontiguousarray(picture), latents, components.tokenizer.tokens_dropped(prompt))
