"""What a prompt tells the U-Net."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.backends import Array32, Backend
from s2p_runtime.bundle import Bundle, Conditioning, PictureSize
from s2p_runtime.tokenizer import ClipTokenizer


@dataclass(frozen=True, eq=False)
class Conditions:
    """Inputs of the U-Net that stay the same for all calls of a picture.

    Attributes:
        embeddings: text embeddings, float32 [B, N, D], unconditional first.
        time_table: float32 [B, T, K] in families whose time table belongs to the prompt (SDXL), else None.
    """

    embeddings: Array32
    time_table: Array32 | None = None

    @property
    def branches(self) -> int:
        """B"""
        return len(self.embeddings)

    @property
    def inputs(self) -> tuple[Array32, ...]:
        """What follows sample and call in :meth:`s2p_runtime.backends.Backend.predict`."""
        return (self.embeddings,) if self.time_table is None else (self.embeddings, self.time_table)


def bundle_tokenizer(bundle: Bundle) -> ClipTokenizer:
    """The bundle's tokenizer."""
    spec = bundle.manifest.tokenizer
    return ClipTokenizer.load(bundle.path(spec.vocab), bundle.path(spec.merges), spec)


def encode_ids(
    conditioning: Conditioning,
    eos_id: int,
    encode: Callable[[NDArray[np.int32], NDArray[np.int32]], tuple[Array32, Array32]],
    token_ids: NDArray[np.int32],
    negative: bool = False,
) -> tuple[Array32, Array32]:
    """Both outputs of an SDXL text encoder for every branch: token ids [B, N] -> hidden states [B, N, D], pooled text [B, P].

    The unconditional branch, the first of two, is zeros where ``conditioning`` says so and there is no negative prompt.

    Args:
        encode: :meth:`s2p_runtime.backends.Backend.encode_pooled`.
        negative: the unconditional branch has a text of its own.
    """
    second = conditioning.second_token_ids(token_ids, eos_id)
    pairs = [encode(first[None], other[None]) for first, other in zip(token_ids, second, strict=True)]
    if len(pairs) > 1 and conditioning.zero_unconditional and not negative:
        pairs[0] = (np.zeros_like(pairs[0][0]), np.zeros_like(pairs[0][1]))
    return np.concatenate([hidden for hidden, _ in pairs]), np.concatenate([pooled for _, pooled in pairs])


def encode_prompt(
    bundle: Bundle,
    backend: Backend,
    tokenizer: ClipTokenizer,
    prompt: str,
    size: PictureSize | None = None,
    negative_prompt: str | None = None,
) -> Conditions:
    """Conditions of a prompt: the negative prompt or the empty text first where the bundle guides.

    Args:
        size: of the picture (None: the bundle's own), which an SDXL model is told.
    """
    texts: Sequence[str] = [negative_prompt or "", prompt] if bundle.manifest.guidance > 1 else [prompt]
    token_ids = np.array([tokenizer.encode(text) for text in texts], np.int32)
    conditioning = bundle.manifest.conditioning
    if conditioning is None:
        return Conditions(np.concatenate([backend.encode_text(row[None]) for row in token_ids]))
    eos_id, negative = bundle.manifest.tokenizer.eos_id, negative_prompt is not None
    hidden, pooled = encode_ids(conditioning, eos_id, backend.encode_pooled, token_ids, negative)
    return Conditions(hidden, backend.time_table(pooled, bundle.manifest.time_ids(size)))
