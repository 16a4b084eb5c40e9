"""What a user gives for a LoRA: a file, or the folder that peft or diffusers saved it in, and a scale."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

from s2p_mobile.sources.unpickle import PICKLES, conversion
from s2p_runtime.errors import S2PError

PEFT_FILE = "adapter_model.safetensors"
"""The name under which peft saves an adapter."""
ADAPTER_CONFIG = "adapter_config.json"
"""What peft writes beside it."""
_SAVED_AS = (PEFT_FILE, "pytorch_lora_weights.safetensors")


def parse_lora(text: str) -> tuple[Path, float]:
    """``FILE`` or ``FILE:scale``; a folder stands for the adapter that peft or diffusers saved in it.

    Raises:
        S2PError: no such file, a pickle, or a scale that is no finite number.
    """
    head, separator, tail = text.rpartition(":")
    path, scale = Path(text), 1.0
    if separator and not path.exists():
        # What is no number belongs to the name of a file that is missing.
        with contextlib.suppress(ValueError):
            path, scale = Path(head), float(tail)
    if path.is_dir():
        path = next((path / name for name in _SAVED_AS if (path / name).is_file()), path)
    if not path.is_file():
        raise S2PError(f"LoRA file {path} does not exist", "give FILE or FILE:scale", "lora")
    if path.suffix.lower() in PICKLES:
        raise S2PError(f"LoRA file {path} is a pickle, which can run code and is not read", conversion(path), "lora")
    if not math.isfinite(scale):
        raise S2PError(
            f"LoRA scale {tail} of {path} is not a finite number", f"give FILE:scale, for example {path.name}:0.8", "lora"
        )
    return path, scale
