"""The FP trajectories that a job learns from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from s2p_mobile.quantize.holdings import FLOAT32, holding, pass_bytes
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.latents import LatentDataset, LatentJob, open_latents, write_latents
from s2p_mobile.quantize.latents.disk import block_shapes, latent_set_bytes
from s2p_mobile.quantize.latents.manifest import SHARD_PROMPTS
from s2p_mobile.quantize.latents.writer import drawing_stage
from s2p_mobile.quantize.stages import Stage
from s2p_mobile.quantize.work import LATENTS_FOLDER
from s2p_mobile.quantize.workers import Workers
from s2p_mobile.sources.prompts import repeated


def job_latents(
    job: QuantizationJob, folder: Path, workers: Workers, most: int | None = None, features: bool = False
) -> LatentDataset:
    """The job's FP trajectories: ``training.prompts`` of its own, or those of the set it names.

    A named set may hold any number of them.

    Args:
        most: limits what is drawn.
        features: block outputs are needed too.

    Raises:
        S2PError: the named set is of another model, plan, guidance, seed or prompts.
    """
    if job.latents is not None:
        given = open_latents(job.latents)
        given.require(_wanted(job, given.prompts, features))
        return given
    wanted = _wanted(job, _drawn(job, most), features)
    return write_latents(wanted, folder / LATENTS_FOLDER, resume=True, progress=job.progress, workers=workers)


def _drawn(job: QuantizationJob, most: int | None) -> int:
    prompts = job.recipe.training.prompts
    return prompts if most is None else min(prompts, most)


def _wanted(job: QuantizationJob, count: int, features: bool) -> LatentJob:
    return LatentJob(job.model, job.plan, repeated(job.prompts, count), job.guidance, job.seed, features, job.compute)


def latent_stages(job: QuantizationJob, most: int | None = None) -> list[Stage]:
    """What :func:`job_latents` announces and does."""
    if job.latents is not None:
        return []
    samples = job.compute.samples
    memory = holding(job, {"passes": pass_bytes(job, samples)}, {"trajectories": 2 * _shard_bytes(job)})
    return [drawing_stage(_drawn(job, most), len(job.plan.calls), job.branches, samples, memory)]


def _shard_bytes(job: QuantizationJob) -> int:
    """States and outputs of the prompts of one file."""
    prompts = min(SHARD_PROMPTS, job.recipe.training.prompts)
    return FLOAT32 * prompts * len(job.plan.calls) * (1 + job.branches) * int(np.prod(job.latent_shape))


def prompts_at_hand(job: QuantizationJob, most: int | None = None) -> int:
    """Trajectories that :func:`job_latents` will give."""
    return _drawn(job, most) if job.latents is None else open_latents(job.latents).prompts


def latents_disk(job: QuantizationJob, most: int | None = None, features: bool = False) -> dict[str, int]:
    """Bytes of files that :func:`job_latents` writes."""
    if job.latents is not None:
        return {}
    conditioner = job.model.conditioner
    stored = block_shapes(job.model.structure, job.branches) if features else {}
    request = _wanted(job, _drawn(job, most), features).request
    return {"latents": latent_set_bytes(request, conditioner.conditions, stored)}
