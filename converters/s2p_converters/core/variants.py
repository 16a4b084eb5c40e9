"""Which weight files of a component are meant: diffusers and transformers keep several precisions side by side as variants."""

from __future__ import annotations

import re
from pathlib import Path

from s2p_runtime.errors import S2PError

_BASES = ("diffusion_pytorch_model", "pytorch_model", "model")
_PRECISIONS = ("fp32", "fp16", "bf16")
"""Variants that hold the same weights, in the order in which one of several is taken."""


def variant_of(name: str) -> str | None:
    """The variant in a weight file's name, empty for a plain name; None for other files. A shard's number may stand on both sides."""
    stem = re.sub(r"-\d+-of-\d+", "", name.rpartition(".")[0])
    base, _, variant = stem.partition(".")
    return variant if base in _BASES else None


def weights_variant(folder: Path, ending: str = ".safetensors") -> str | None:
    """The variant to load: None for the plain names where they are there, else the only one, else one that is a precision.

    ``non_ema`` beside ``fp16`` is so left out: the averaged weights are the ones to draw with.

    Args:
        folder: of a component.
        ending: of its weight files.

    Raises:
        S2PError: several variants, and none is a precision.
    """
    found = {variant for path in folder.glob(f"*{ending}") if (variant := variant_of(path.name)) is not None}
    if not found or "" in found:
        return None
    if len(found) == 1:
        return found.pop()
    for precision in _PRECISIONS:
        if precision in found:
            return precision
    raise S2PError(
        f"{folder} has weights of several variants ({', '.join(sorted(found))}) and none without",
        "keep the files of one of them",
    )
