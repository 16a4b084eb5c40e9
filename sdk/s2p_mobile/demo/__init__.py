"""The built-in demo model: a small Stable Diffusion pipeline that draws emoji. A folder of files, with nothing to run.

What is special about it stands in its ``s2p_defaults.json``, as any model may have one. Its training is ``tools/demo_training``.

Example:
    >>> from diffusers import StableDiffusionPipeline
    >>> from s2p_mobile.demo import DEMO_MODEL
    >>> pipe = StableDiffusionPipeline.from_pretrained(DEMO_MODEL)
    >>> pipe("a red apple on a blue background", num_inference_steps=25, guidance_scale=4.0, height=64, width=64)
"""

from __future__ import annotations

from pathlib import Path

DEMO_MODEL: Path = Path(__file__).parent / "model"
"""Folder of the trained pipeline (diffusers layout, fp16 safetensors) and of ``clip/``, its judge."""

HELD_OUT_PROMPTS: Path = DEMO_MODEL / "prompts" / "held_out.txt"
"""Prompt file: every caption that was kept out of training, one a line, in a fixed mixed order."""

CALIBRATION_PROMPTS: Path = DEMO_MODEL / "prompts" / "calibration.txt"
"""Prompt file: the training captions, the first 64 with distinct objects and balanced backgrounds."""

_WORD = "demo"


def names_demo(word: str) -> bool:
    """Whether a word on the command line stands for the demo model: it is ``demo``, and no file or folder of that name is here."""
    return word == _WORD and not Path(word).exists()


__all__ = ["CALIBRATION_PROMPTS", "DEMO_MODEL", "HELD_OUT_PROMPTS", "names_demo"]
