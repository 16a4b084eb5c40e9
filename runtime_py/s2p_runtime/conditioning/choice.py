"""Which conditioning a manifest describes, and prompts of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from s2p_runtime.artist import check_negative_prompt
from s2p_runtime.backends import Backend
from s2p_runtime.bundle import Bundle, Conditioning, LatentSpec, PictureSize
from s2p_runtime.conditioning.pooled_text import PooledTextConditioner
from s2p_runtime.conditioning.protocol import Conditioner, Conditions
from s2p_runtime.conditioning.text import TextConditioner
from s2p_runtime.conditioning.tokens import load_tokenizers, token_ids, tokenizer_specs
from s2p_runtime.tokenizer import ClipTokenizer
from s2p_runtime.tokenizer_spec import TokenizerSpec


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
    return PooledTextConditioner(manifest.conditioning, manifest.latents)


def components_of(bundle: Bundle) -> tuple[str, ...]:
    """What a picture needs, in this order; a U-Net in several programs is one of them, ``unet``."""
    return (*conditioner_of(bundle.manifest).components, "unet", "vae_decoder")


def bundle_tokenizers(bundle: Bundle) -> dict[str, ClipTokenizer]:
    """The bundle's tokenizers, by the name of their ids (:data:`~s2p_runtime.conditioning.tokens.TokenIds`)."""
    return load_tokenizers(bundle.folder, tokenizer_specs(bundle.manifest.tokenizer, bundle.manifest.conditioning))


def encode_prompt(
    bundle: Bundle,
    backend: Backend,
    tokenizers: Mapping[str, ClipTokenizer],
    prompt: str,
    size: PictureSize | None = None,
    negative_prompt: str | None = None,
) -> Conditions:
    """Conditions of a prompt.

    Args:
        tokenizers: :func:`bundle_tokenizers`.
        size: of the picture (None: the bundle's own), which some models are told.
        negative_prompt: what the unconditional branch encodes in place of the empty text; None: what the model was trained with,
            as ``encode_prompt`` of diffusers' pipelines.

    Raises:
        S2PError: a negative prompt for a bundle that draws without classifier-free guidance.
    """
    check_negative_prompt(negative_prompt, bundle.manifest.guidance)
    texts = [negative_prompt or "", prompt] if bundle.manifest.guidance > 1 else [prompt]
    conditioner = conditioner_of(bundle.manifest)
    ids = token_ids(tokenizers, texts)
    return conditioner.conditions(conditioner.encode(backend.run, ids, size, negative_prompt is not None))
