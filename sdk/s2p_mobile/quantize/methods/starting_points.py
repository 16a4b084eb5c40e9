"""S2P's starting points alone, no training: GPTQ, whose weights are rounded one after another such that those that follow make up for
the error, and AdaRound, whose weights are rounded up or down, part after part of the network."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.methods.registry import register
from s2p_mobile.quantize.preparation.latents import job_latents
from s2p_mobile.quantize.preparation.student import prepare
from s2p_mobile.quantize.training.student import build_student, quantized_unet
from s2p_mobile.quantize.workers import Workers

TRAJECTORIES = 64
"""FP trajectories at most: the second moments of a few hundred calls do not need more."""


@register("gptq")
def compensated_rounding(job: QuantizationJob) -> QuantizedUNet:
    """GPTQ, with the recipe's ``training.start.calls`` and ``training.loss.calls``.

    Raises:
        S2PError: ``job.latents`` is of another model, plan, guidance, seed or prompts; no space left.
    """
    return _start(job, "gptq")


@register("adaround")
def adaptive_rounding(job: QuantizationJob) -> QuantizedUNet:
    """AdaRound, with the recipe's ``training.start.samples`` and ``training.start.iterations``.

    Raises:
        S2PError: as :func:`compensated_rounding`.
    """
    return _start(job, "adaround")


def _start(job: QuantizationJob, rounding: Literal["gptq", "adaround"]) -> QuantizedUNet:
    training = job.recipe.training
    training = training.model_copy(update={"start": training.start.model_copy(update={"rounding": rounding})})
    job = replace(job, recipe=job.recipe.model_copy(update={"training": training}))
    workers = Workers(job.device)
    with tempfile.TemporaryDirectory(prefix="s2p-mobile-") as folder:
        latents = job_latents(job, Path(folder), workers, most=TRAJECTORIES)
        return quantized_unet(build_student(job, prepare(job, latents, workers.device)))
