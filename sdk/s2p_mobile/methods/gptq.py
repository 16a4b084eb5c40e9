"""GPTQ: weights rounded one after another, errors made up for by those that follow; no training."""

from __future__ import annotations

import tempfile
from pathlib import Path

from s2p_mobile.methods.registry import register
from s2p_mobile.preparation.latents import job_latents
from s2p_mobile.preparation.student import prepare
from s2p_mobile.quantization.job import QuantizationJob, QuantizedUNet
from s2p_mobile.training.student import build_student, quantized_unet
from s2p_mobile.workers import Workers

TRAJECTORIES = 64
"""FP trajectories at most: the second moments of a few hundred calls do not need more."""


@register("gptq")
def compensated_rounding(job: QuantizationJob) -> QuantizedUNet:
    """S2P's starting point alone: minutes instead of a training. Uses the recipe's ``training.start`` and ``training.loss.calls``.

    Raises:
        S2PError: ``job.latents`` is of another model, plan, guidance, seed or prompts; no space left.
    """
    workers = Workers(job.device)
    with tempfile.TemporaryDirectory(prefix="s2p-mobile-") as folder:
        latents = job_latents(job, Path(folder), workers, most=TRAJECTORIES)
        return quantized_unet(build_student(job, prepare(job, latents, workers.device)))
