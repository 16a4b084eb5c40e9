"""What single-file checkpoints of SDXL have of their own: two text encoders, and a pooled text in the U-Net's time path."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from s2p_mobile.sources.key_account import Part
from s2p_mobile.sources.ldm_config import UNET_PREFIX, Tensors, UntoldShapeError, component_part, write_tokenizer
from s2p_mobile.sources.ldm_text import XL_FIRST, XL_SECOND, text_config
from s2p_runtime.quiet import quiet_import

_TIME_IDS = 6


def is_sdxl(keys: Iterable[str]) -> bool:
    """Whether a file with these keys has SDXL's two text encoders; its refiner has the second alone, as the first."""
    found = list(keys)
    return all(any(key.startswith(layout.prefix) for key in found) for layout in (XL_FIRST, XL_SECOND))


def xl_unet_additions(tensors: Tensors) -> dict[str, Any]:
    """What SDXL's U-Net has in its configuration beside 2.x's: the added embedding takes the pooled text and six time ids.

    Raises:
        KeyError: the added embedding or the projection of the pooled text is missing.
        UntoldShapeError: what is left beside the pooled text is not divisible by six.
    """
    pooled = int(tensors[f"{XL_SECOND.prefix}text_projection"].shape[1])
    added = int(tensors[f"{UNET_PREFIX}label_emb.0.0.weight"].shape[1])
    if added <= pooled or (added - pooled) % _TIME_IDS:
        raise UntoldShapeError(
            f"its U-Net takes {added} added numbers, no pooled text of {pooled} and {_TIME_IDS} time ids of one width"
        )
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (added - pooled) // _TIME_IDS,
        "projection_class_embeddings_input_dim": added,
    }


def xl_text_parts(tensors: Tensors) -> list[Part]:
    """Both text encoders. No block is left out: the last one makes the second's pooled text.

    Raises:
        KeyError: a tensor is missing.
        UntoldShapeError: as :func:`text_config`.
    """
    with quiet_import():
        from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint

    first = text_config(tensors, XL_FIRST, "quick_gelu", XL_FIRST.blocks(tensors))
    second = text_config(tensors, XL_SECOND, "gelu", XL_SECOND.blocks(tensors)) | {
        "architectures": ["CLIPTextModelWithProjection"],
        "projection_dim": int(tensors[f"{XL_SECOND.prefix}text_projection"].shape[1]),
    }
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=second["hidden_size"]))
    return [
        Part(
            "text_encoder",
            first,
            component_part(tensors, XL_FIRST.prefix),
            lambda given: dict(convert_ldm_clip_checkpoint(given)),
        ),
        Part(
            "text_encoder_2",
            second,
            component_part(tensors, XL_SECOND.prefix),
            lambda given: dict(convert_open_clip_checkpoint(model, given, prefix=XL_SECOND.prefix)),
        ),
    ]


def write_tokenizers(folder: Path) -> None:
    """CLIP's tokenizer twice: the first pads with the end of text, the second with ``!`` (id 0)."""
    write_tokenizer(folder / "tokenizer", pads_with_end=True)
    write_tokenizer(folder / "tokenizer_2", pads_with_end=False)
