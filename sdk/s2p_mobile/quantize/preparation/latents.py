"""The FP trajectories that a job learns from."""

from __future__ import annotations

from pathlib import Path

from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.latents import LatentDataset, LatentJob, open_latents, write_latents
from s2p_mobile.quantize.workers import Workers
from s2p_mobile.sources.prompts import repeated


def job_latents(job: QuantizationJob, folder: Path, workers: Workers, most: int | None = None) -> LatentDataset:
    """The job's FP trajectories: ``training.prompts`` of its own, or those of the set it names.

    A named set may hold any number of them. ``most`` limits what is drawn.

    Raises:
        S2PError: the named set is of another model, plan, guidance, seed or prompts.
    """
    rule = job.recipe.training
    given = None if job.latents is None else open_latents(job.latents)
    drawn = rule.prompts if most is None else min(rule.prompts, most)
    count = drawn if given is None else given.prompts
    wanted = LatentJob(
        job.model, job.plan, repeated(job.prompts, count), job.guidance, job.seed,
        features=rule.store_features and rule.distillation.weight > 0,
    )  # fmt: skip
    if given is not None:
        given.require(wanted)
        return given
    return write_latents(wanted, folder / "latents", resume=True, progress=job.progress, workers=workers)
