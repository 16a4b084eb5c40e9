"""The built-in demo model: a small Stable Diffusion pipeline that draws emoji, its captions and its training.

Example:
    >>> from diffusers import StableDiffusionPipeline
    >>> from s2p_mobile.demo import DEMO_MODEL, held_out_captions
    >>> pipe = StableDiffusionPipeline.from_pretrained(DEMO_MODEL)
    >>> pipe(held_out_captions()[0], num_inference_steps=25, guidance_scale=4.0, height=64, width=64)
"""

from __future__ import annotations

from pathlib import Path

from s2p_mobile.demo.captions import calibration_captions, held_out_captions, training_captions

DEMO_MODEL: Path = Path(__file__).parent / "model"
"""Folder of the trained pipeline (diffusers layout, fp16 safetensors) and of ``clip/``, its judge."""

HELD_OUT_PROMPTS: Path = Path(__file__).parent / "prompts" / "held_out.txt"
"""Prompt file: every held-out caption, one a line."""

CALIBRATION_PROMPTS: Path = Path(__file__).parent / "prompts" / "calibration.txt"
"""Prompt file: the training captions, the first 64 with distinct objects and balanced backgrounds."""

__all__ = [
    "CALIBRATION_PROMPTS",
    "DEMO_MODEL",
    "HELD_OUT_PROMPTS",
    "calibration_captions",
    "held_out_captions",
    "training_captions",
]
