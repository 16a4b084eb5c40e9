"""From command-line words to a quantization job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from s2p_converters.core.plan import plan_for
from s2p_mobile.demo import calibration_captions
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.methods import recipe_for, require_resumable
from s2p_mobile.quantize.preparation.given_sensitivity import sensitivity_for
from s2p_mobile.quantize.recipes import load_recipe
from s2p_mobile.quantize.sensitivity import ESTIMATORS
from s2p_mobile.quantize.workers import DEVICES
from s2p_mobile.sources.model import Model, open_model
from s2p_mobile.sources.picture_size import PictureSize
from s2p_mobile.sources.prompts import read_prompts, subset
from s2p_runtime.errors import S2PError
from s2p_runtime.progress import Progress

PIPELINES = ("s2p", "serial", "parallel")
DEFAULT_PROMPTS = (
    "a photograph of an astronaut riding a horse",
    "a bowl of fruit on a wooden table, oil painting",
    "a city street at night in the rain, neon lights",
    "a portrait of an old fisherman, black and white",
    "a small red boat on a calm lake, mountains behind",
    "a golden retriever puppy sleeping on a sofa",
    "an isometric drawing of a tiny house with a garden",
    "a plate of pasta with tomato sauce and basil, close-up",
    "a medieval castle on a cliff above the sea, fantasy art",
    "a yellow taxi crossing a bridge, morning fog",
    "a watercolour painting of a forest path in autumn",
    "a robot reading a book in a library, digital art",
    "a bicycle leaning against a blue wall",
    "a snowy owl flying over a field",
    "a still life with a violin and sheet music",
    "a child building a sand castle on the beach",
)
"""Calibration prompts of models other than the demo model, used where ``prompts`` is left out."""


def job_prompts(model: Model, path: Path | None, count: int | None = None, subset_seed: int | None = None) -> tuple[str, ...]:
    """Calibration prompts: of a file, or the built-in ones; ``count`` of them by the rule of :mod:`s2p_mobile.sources.prompts`."""
    if path is not None:
        return tuple(read_prompts(path, count, subset_seed))
    built_in = tuple(calibration_captions()) if model.name == "demo" else DEFAULT_PROMPTS
    return built_in if count is None else tuple(subset(built_in, count, subset_seed))


def make_job(
    source: str | None,
    *,
    recipe_name: str | None,
    scheduler: str | None,
    steps: int | None,
    guidance: float | None,
    prompts: Path | None,
    seed: int,
    progress: Progress,
    method: str = "s2p",
    pipeline: str | None = None,
    device: str = "auto",
    work: Path | None = None,
    resume: bool = False,
    latents: Path | None = None,
    sensitivity: Path | None = None,
    size: str | None = None,
    loras: Sequence[str] = (),
    count: int | None = None,
    subset_seed: int | None = None,
) -> QuantizationJob:
    """Check everything that is cheap to check and make the job.

    Args:
        recipe_name, steps, guidance: the model's own when None.
        method: what the job is for, by name.
        size: ``WIDTHxHEIGHT`` of the pictures; the model's own when None.
        loras: ``FILE[:scale]`` each, fused into the weights in their order.
        sensitivity: a result of ``s2p-mobile sensitivity`` to rank layers by.
        count, subset_seed: how many prompts, and the seed that picks them.

    Raises:
        S2PError: unknown recipe, method, estimator, scheduler, pipeline or device, bad model, LoRA or prompt file, guidance out of
            range, a size that the model cannot draw, a sensitivity of something else.
    """
    chosen_size = None if size is None else PictureSize.parse(size)
    named_recipe = None if recipe_name is None else load_recipe(recipe_name)
    if device not in DEVICES:
        raise S2PError(f"unknown device {device!r}", f"devices are {', '.join(DEVICES)}")
    if pipeline is not None and pipeline not in PIPELINES:
        raise S2PError(f"unknown pipeline {pipeline!r}", f"pipelines are {', '.join(PIPELINES)}")
    if resume:
        require_resumable(method)
    model = open_model(source, chosen_size, loras)
    recipe = recipe_for(method, named_recipe or load_recipe(model.family.recipe))
    if recipe.mixed is not None:
        ESTIMATORS.get(recipe.mixed.ranking)
    if pipeline is not None:
        recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"pipeline": pipeline})})
    plan = plan_for(model.folder / "scheduler", scheduler, steps or model.steps)
    job = QuantizationJob(
        model=model,
        plan=plan,
        recipe=recipe,
        prompts=job_prompts(model, prompts, count, subset_seed),
        guidance=model.choose_guidance(guidance),
        seed=seed,
        progress=progress,
        device=device,
        work=work,
        resume=resume,
        latents=latents,
    )
    return job if sensitivity is None else replace(job, sensitivity=sensitivity_for(job, sensitivity))
