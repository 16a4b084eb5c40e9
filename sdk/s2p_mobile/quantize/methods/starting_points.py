"""S2P's starting points alone, no training: GPTQ, whose weights are rounded one after another such that those that follow make up for
the error, and AdaRound, whose weights are rounded up or down, part after part of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.methods.method import Method
from s2p_mobile.quantize.preparation.latents import job_latents, latent_stages, latents_disk, prompts_at_hand
from s2p_mobile.quantize.preparation.prepare import preparation_stages, prepare
from s2p_mobile.quantize.stages import Stage
from s2p_mobile.quantize.student import build_student, quantized_unet
from s2p_mobile.quantize.work import working_folder
from s2p_mobile.quantize.workers import join_workers

TRAJECTORIES = 64
"""FP trajectories at most: the second moments of a few hundred calls do not need more."""


@dataclass(frozen=True)
class StartingPoint(Method):
    """The weights that training would start from.

    Attributes:
        rounding: how they are found, whatever the recipe's ``training.start.rounding`` says.
    """

    name: str
    title: str
    rounding: Literal["gptq", "adaround"]
    keeps_work: bool = True

    def run(self, job: QuantizationJob) -> QuantizedUNet:
        """Round; with ``job.work`` the latents and finished parts of the network outlive an interruption.

        Raises:
            S2PError: ``job.latents`` is of another model, plan, guidance, seed or prompts; no space left.
        """
        job, workers = self._job(job), join_workers(job.device)
        with working_folder(job, workers) as folder:
            latents = job_latents(job, folder, workers, most=TRAJECTORIES)
            unet = quantized_unet(build_student(job, prepare(job, latents, workers.device)))
            workers.wait()
            return unet

    def stages(self, job: QuantizationJob) -> Sequence[Stage]:
        """See :class:`Method`."""
        job = self._job(job)
        return [*latent_stages(job, TRAJECTORIES), *preparation_stages(job, prompts_at_hand(job, TRAJECTORIES))]

    def disk(self, job: QuantizationJob) -> Mapping[str, int]:
        """See :class:`Method`."""
        return latents_disk(job, TRAJECTORIES)

    def _job(self, job: QuantizationJob) -> QuantizationJob:
        rule = job.recipe.training
        start = rule.start.model_copy(update={"rounding": self.rounding})
        training = rule.model_copy(update={"start": start})
        return replace(job, recipe=job.recipe.model_copy(update={"training": training}))


GPTQ = StartingPoint("gptq", "rounding whose errors make up for each other, no training", "gptq")
ADAROUND = StartingPoint("adaround", "learned rounding up or down, no training", "adaround")
