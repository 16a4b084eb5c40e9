"""For which kind of model a safetensors file was made, as its header says."""

from __future__ import annotations

import re
from collections.abc import Mapping

FAMILY_TITLES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL"}
_METADATA = ("modelspec.architecture", "ss_base_model_version")
"""Written by kohya's sd-scripts, OneTrainer and others: ``stable-diffusion-xl-v1-base/lora``, ``sdxl_base_v1-0``."""
_ARCHITECTURES = (
    (r"sdxl|stable-diffusion-xl", FAMILY_TITLES["sdxl"]),
    (r"sd_v2|stable-diffusion-v2", FAMILY_TITLES["sd2"]),
    (r"sd_v1|stable-diffusion-v1", FAMILY_TITLES["sd1"]),
    (r"sd_?3|stable-diffusion-3", "Stable Diffusion 3"),
    (r"flux", "Flux"),
)


def told_kind(metadata: Mapping[str, str]) -> str | None:
    """Title of the kind, for people; None where a header does not say, or says something unknown here."""
    for name in _METADATA:
        text = metadata.get(name, "").lower()
        for pattern, title in _ARCHITECTURES:
            if re.search(pattern, text):
                return title
    return None
