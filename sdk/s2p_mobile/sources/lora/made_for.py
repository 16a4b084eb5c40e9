"""Which kind of model a LoRA file was made for: a reason to give when it does not fit, and never one to refuse a file that does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from s2p_mobile.sources.families import recognise
from s2p_mobile.sources.header_kind import FAMILY_TITLES, told_kind
from s2p_mobile.sources.lora.spellings import COMPONENTS
from s2p_mobile.sources.modules import read_json
from s2p_runtime.errors import S2PError

_MARKS = (
    (r"single_blocks|single_transformer_blocks|double_blocks", "Flux"),
    (r"joint_blocks|^transformer\.", "a diffusion transformer"),
    (r"^lora_te2_|^lora_te2\.|^text_encoder_2\.|clip_g\.|label_emb|add_embedding", FAMILY_TITLES["sdxl"]),
)
_TEXT_WIDTHS = {768: FAMILY_TITLES["sd1"], 1024: FAMILY_TITLES["sd2"], 2048: FAMILY_TITLES["sdxl"]}
"""What the published models' cross attention takes."""
_TAKES_TEXT = re.compile(r".*attn2[._](?:processor\.)?to_[kv][._].*(?:lora_A\.weight|down\.weight|w[12]_b)")


def advice(source: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """What to say of a file that does not fit a model."""
    made_for = told_kind(metadata) or _marked(tensors) or _by_width(tensors)
    if made_for is None or made_for == _title(source):
        return "it is for another model"
    return f"it was made for {made_for}, give a LoRA of this model's kind"


def _marked(tensors: Mapping[str, Tensor]) -> str | None:
    return next((title for pattern, title in _MARKS if any(re.search(pattern, key) for key in tensors)), None)


def _by_width(tensors: Mapping[str, Tensor]) -> str | None:
    widths = {tensor.shape[-1] for key, tensor in tensors.items() if tensor.dim() == 2 and _TAKES_TEXT.fullmatch(key)}
    return _TEXT_WIDTHS.get(widths.pop()) if len(widths) == 1 else None


def _title(source: Path) -> str | None:
    """Of the model's own family, where it is one of those above."""
    folders = [source / part for part in COMPONENTS if (source / part / "config.json").is_file()]
    try:
        return FAMILY_TITLES.get(
            recognise(str(source), {folder.name: read_json(folder / "config.json") for folder in folders}).name
        )
    except S2PError:
        return None
