"""A quantization job from what a caller says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from s2p_converters.core.checkpoint import Checkpoint
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.methods import recipe_for, require_resumable
from s2p_mobile.quantize.preparation.given_sensitivity import sensitivity_for
from s2p_mobile.quantize.preparation.likeness import likeness_of
from s2p_mobile.quantize.recipes import Recipe, load_recipe
from s2p_mobile.quantize.sensitivity import ESTIMATORS
from s2p_mobile.quantize.sensitivity.result import Sensitivity
from s2p_mobile.sources.default_prompts import Prompts, calibration_prompts
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.pixel_size import SizeLike
from s2p_mobile.sources.session import open_session
from s2p_runtime.errors import S2PError
from s2p_runtime.progress import Progress, Silent

PIPELINES = ("s2p", "serial", "parallel")


def make_job(
    source: Model | str | Path | None,
    *,
    recipe: Recipe | str | Path | None = None,
    method: str = "s2p",
    pipeline: str | None = None,
    prompts: Prompts | None = None,
    count: int | None = None,
    subset_seed: int | None = None,
    size: SizeLike | None = None,
    lora: Sequence[str | Path] = (),
    embedding: Sequence[str | Path] = (),
    allow_pickle: bool = False,
    scheduler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    work: Path | None = None,
    resume: bool = False,
    latents: Path | None = None,
    sensitivity: Sensitivity | str | Path | None = None,
    like: Checkpoint | str | Path | None = None,
    progress: Progress | None = None,
) -> QuantizationJob:
    """Check everything that is cheap to check and make the job.

    Args:
        source: see :func:`~s2p_mobile.sources.session.open_session`, as for ``size`` to ``seed``.
        recipe: by name, from a file, or as it is; the family's when None.
        method: what the job is for.
        pipeline: of training, instead of the recipe's.
        prompts: the model's own when None.
        count, subset_seed: how many prompts, and the seed that picks them.
        work, resume, latents, progress: see :class:`QuantizationJob`.
        sensitivity: a result to rank layers by, or its file.
        like: a checkpoint of the same architecture, or its folder.

    Raises:
        S2PError: unknown recipe, method, estimator, scheduler, pipeline or device, bad model, LoRA or prompt file, guidance out of
            range, a size that the model cannot draw, a sensitivity of something else.
    """
    named = load_recipe(str(recipe)) if isinstance(recipe, str | Path) else recipe
    if pipeline is not None and pipeline not in PIPELINES:
        raise S2PError(f"unknown pipeline {pipeline!r}", f"pipelines are {', '.join(PIPELINES)}", "pipeline")
    if resume:
        require_resumable(method)
    session = open_session(
        source,
        size=size,
        lora=lora,
        embedding=embedding,
        allow_pickle=allow_pickle,
        scheduler=scheduler,
        steps=steps,
        guidance=guidance,
        device=device,
        seed=seed,
    )
    chosen = recipe_for(method, named or load_recipe(session.model.family.recipe))
    if chosen.mixed is not None:
        ESTIMATORS.get(chosen.mixed.ranking)
    if pipeline is not None:
        chosen = chosen.model_copy(update={"training": chosen.training.model_copy(update={"pipeline": pipeline})})
    job = QuantizationJob(
        model=session.model,
        plan=session.plan,
        recipe=chosen,
        prompts=calibration_prompts(session.model, prompts, count, subset_seed),
        guidance=session.guidance,
        seed=session.seed,
        progress=progress or Silent(),
        device=session.device,
        work=work,
        resume=resume,
        latents=latents,
    )
    if sensitivity is not None:
        job = replace(job, sensitivity=sensitivity_for(job, sensitivity))
    return job if like is None else replace(job, like=likeness_of(job, like))
