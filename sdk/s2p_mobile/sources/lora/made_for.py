"""Which kind of model a LoRA file was made for: a reason to give when it does not fit, and never one to refuse a file that does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from s2p_mobile.sources.families import recognise
from s2p_mobile.sources.lora.spellings import COMPONENTS
from s2p_mobile.sources.modules import read_json
from s2p_runtime.errors import S2PError

_TITLES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL"}
_METADATA = ("modelspec.architecture", "ss_base_model_version")
"""Written by kohya's sd-scripts, OneTrainer and others: ``stable-diffusion-xl-v1-base/lora``, ``sdxl_base_v1-0``."""
_ARCHITECTURES = (
    (r"sdxl|stable-diffusion-xl", _TITLES["sdxl"]),
    (r"sd_v2|stable-diffusion-v2", _TITLES["sd2"]),
    (r"sd_v1|stable-diffusion-v1", _TITLES["sd1"]),
    (r"sd_?3|stable-diffusion-3", "Stable Diffusion 3"),
    (r"flux", "Flux"),
)
_MARKS = (
    (r"single_blocks|single_transformer_blocks|double_blocks", "Flux"),
    (r"joint_blocks|^transformer\.", "a diffusion transformer"),
    (r"^lora_te2_|^lora_te2\.|^text_encoder_2\.|clip_g\.|label_emb|add_embedding", _TITLES["sdxl"]),
)
_TEXT_WIDTHS = {768: _TITLES["sd1"], 1024: _TITLES["sd2"], 2048: _TITLES["sdxl"]}
"""What the published models' cross attention takes."""
_TAKES_TEXT = re.compile(r".*attn2[._](?:processor\.)?to_[kv][._].*(?:lora_A\.weight|down\.weight|w[12]_b)")


def advice(source: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """What to say of a file that does not fit a model."""
    made_for = _told(metadata) or _marked(tensors) or _by_width(tensors)
    if made_for is None or made_for == _title(source):
        return "it is for another model"
    return f"it was made for {made_for}, give a LoRA of this model's kind"


def _told(metadata: Mapping[str, str]) -> str | None:
    for name in _METADATA:
        text = metadata.get(name, "").lower()
        for pattern, title in _ARCHITECTURES:
            if re.search(pattern, text):
                return title
    return None


def _marked(tensors: Mapping[str, Tensor]) -> str | None:
    return next((title for pattern, title in _MARKS if any(re.search(pattern, key) for key in tensors)), None)


def _by_width(tensors: Mapping[str, Tensor]) -> str | None:
    widths = {tensor.shape[-1] for key, tensor in tensors.items() if tensor.dim() == 2 and _TAKES_TEXT.fullmatch(key)}
    return _TEXT_WIDTHS.get(widths.pop()) if len(widths) == 1 else None


def _title(source: Path) -> str | None:
    """Of the model's own family, where it is one of those above."""
    folders = [source / part for part in COMPONENTS if (source / part / "config.json").is_file()]
    try:
        return _TITLES.get(recognise(str(source), {folder.name: read_json(folder / "config.json") for folder in folders}).name)
    except S2PError:
        return None
