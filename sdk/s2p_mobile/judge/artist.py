"""Draws a prompt with a model, a checkpoint or a bundle."""

from __future__ import annotations

import numpy as np
import torch

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.graph import StepUNet
from s2p_converters.core.reference import checkpoint_unet
from s2p_mobile.sources.components import Components
from s2p_mobile.sources.session import Session
from s2p_mobile.sources.trajectory import draw_latents, encode_prompt, float_unet
from s2p_runtime.bundle import Bundle, PictureSize
from s2p_runtime.drawing import Drawing, draw
from s2p_runtime.engines import open_backend
from s2p_runtime.pictures import to_picture
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.progress import Progress


def draw_model(session: Session, prompt: str, progress: Progress, *, negative_prompt: str | None = None) -> Drawing:
    """Draw with an FP model, from the session's seed.

    Args:
        negative_prompt: what not to draw, with guidance above 1; as for the others.
    """
    unet = float_unet(session.model, session.plan).to(session.device)
    return _draw(session.model, unet, session.plan, session.guidance, prompt, session.seed, progress, negative_prompt)


def draw_checkpoint(
    checkpoint: Checkpoint,
    prompt: str,
    seed: int,
    device: torch.device,
    progress: Progress,
    *,
    negative_prompt: str | None = None,
) -> Drawing:
    """Draw with a checkpoint in float32, under the plan and guidance that it was made for."""
    manifest = checkpoint.manifest
    components = Components(checkpoint.folder, manifest.tokenizer, manifest.latents, manifest.conditioning)
    unet = checkpoint_unet(checkpoint).float().to(device)
    return _draw(components, unet, manifest.plan, manifest.guidance, prompt, seed, progress, negative_prompt)


def draw_bundle(
    bundle: Bundle,
    prompt: str,
    seed: int,
    progress: Progress,
    *,
    size: PictureSize | None = None,
    release_chunks: bool = False,
    negative_prompt: str | None = None,
) -> Drawing:
    """Draw with a bundle's own programs.

    Args:
        size: one of the bundle's; its own when None.
        release_chunks: see :func:`s2p_runtime.engines.open_backend`.
    """
    backend = open_backend(bundle, release_chunks=release_chunks)
    with progress.stage("drawing", len(bundle.manifest.plan.calls)) as advance:
        return draw(bundle, backend, prompt, seed, lambda *_: advance(), size, negative_prompt)


def _draw(
    components: Components,
    unet: StepUNet,
    plan: SamplingPlan,
    guidance: float,
    prompt: str,
    seed: int,
    progress: Progress,
    negative_prompt: str | None,
) -> Drawing:
    encoded = encode_prompt(components, prompt, seed, guidance, negative_prompt)
    with progress.stage("drawing", len(plan.calls)) as advance:
        latents = draw_latents(unet, plan, encoded, guidance, components.latent_shape, lambda *_: advance())
        picture = to_picture(components.decode(latents))
    return Drawing(np.ascontiguousarray(picture), latents, components.tokenizer.tokens_dropped(prompt))
