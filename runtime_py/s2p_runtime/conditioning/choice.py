"""Which conditioning a manifest describes, and prompts of a bundle."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from s2p_runtime.artist import check_negative_prompt
from s2p_runtime.backends import Backend
from s2p_runtime.bundle import Bundle, Conditioning, LatentSpec, PictureSize, TokenizerSpec
from s2p_runtime.conditioning.pooled_text import PooledTextConditioner
from s2p_runtime.conditioning.protocol import Conditioner, Conditions
from s2p_runtime.conditioning.text import TextConditioner
from s2p_runtime.tokenizer import ClipTokenizer


class ConditionedManifest(Protocol):
    """What a bundle's manifest and a checkpoint's say about conditioning."""

    @property
    def conditioning(self) -> Conditioning | None: ...

    @property
    def tokenizer(self) -> TokenizerSpec: ...

    @property
    def latents(self) -> LatentSpec: ...


def conditioner_of(manifest: ConditionedManifest) -> Conditioner:
    """The conditioning of a bundle or a checkpoint. This is the only place that asks which it is."""
    if manifest.conditioning is None:
        return TextConditioner()
    return PooledTextConditioner(manifest.conditioning, manifest.tokenizer.eos_id, manifest.latents)


def components_of(bundle: Bundle) -> tuple[str, ...]:
    """What a picture needs, in this order; a U-Net in several programs is one of them, ``unet``."""
    return (*conditioner_of(bundle.manifest).components, "unet", "vae_decoder")


def bundle_tokenizer(bundle: Bundle) -> ClipTokenizer:
    """The bundle's tokenizer."""
    spec = bundle.manifest.tokenizer
    return ClipTokenizer.load(bundle.path(spec.vocab), bundle.path(spec.merges), spec)


def encode_prompt(
    bundle: Bundle,
    backend: Backend,
    tokenizer: ClipTokenizer,
    prompt: str,
    size: PictureSize | None = None,
    negative_prompt: str | None = None,
) -> Conditions:
    """Conditions of a prompt.

    Args:
        size: of the picture (None: the bundle's own), which some models are told.
        negative_prompt: what the unconditional branch encodes in place of the empty text; None: what the model was trained with,
            as ``encode_prompt`` of diffusers' pipelines.

    Raises:
        S2PError: a negative prompt for a bundle that draws without classifier-free guidance.
    """
    check_negative_prompt(negative_prompt, bundle.manifest.guidance)
    texts = [negative_prompt or "", prompt] if bundle.manifest.guidance > 1 else [prompt]
    token_ids = np.array([tokenizer.encode(text) for text in texts], np.int32)
    conditioner = conditioner_of(bundle.manifest)
    return conditioner.conditions(conditioner.encode(backend.run, token_ids, size, negative_prompt is not None))
