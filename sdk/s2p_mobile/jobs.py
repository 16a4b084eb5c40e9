"""From command-line words to a quantization job."""

from __future__ import annotations

from pathlib import Path

from s2p_mobile.demo import calibration_captions
from s2p_mobile.methods.registry import QuantizationJob
from s2p_mobile.models import Model, open_model
from s2p_mobile.plan import plan_for
from s2p_mobile.prompts import read_prompts
from s2p_mobile.recipes import load_recipe
from s2p_mobile.workers import DEVICES
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
"""Calibration prompts of models other than the demo model, used where ``--prompts`` is left out."""


def job_prompts(model: Model, path: Path | None) -> tuple[str, ...]:
    """Calibration prompts: of a file, or the built-in ones."""
    if path is not None:
        return tuple(read_prompts(path))
    return tuple(calibration_captions()) if model.name == "demo" else DEFAULT_PROMPTS


def make_job(
    source: str | None,
    *,
    recipe_name: str,
    scheduler: str | None,
    steps: int,
    guidance: float | None,
    prompts: Path | None,
    seed: int,
    progress: Progress,
    pipeline: str | None = None,
    device: str = "auto",
    work: Path | None = None,
    resume: bool = False,
    latents: Path | None = None,
) -> QuantizationJob:
    """Check everything that is cheap to check and make the job.

    Raises:
        S2PError: unknown recipe, scheduler, pipeline or device, bad model folder, bad prompt file, guidance out of range.
    """
    recipe = load_recipe(recipe_name)
    if device not in DEVICES:
        raise S2PError(f"unknown device {device!r}; devices are {', '.join(DEVICES)}")
    if pipeline is not None:
        if pipeline not in PIPELINES:
            raise S2PError(f"unknown pipeline {pipeline!r}; pipelines are {', '.join(PIPELINES)}")
        recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"pipeline": pipeline})})
    model = open_model(source)
    if guidance is not None and not 0 <= guidance <= 100:
        raise S2PError(f"guidance {guidance} is not between 0 and 100; leave --guidance out for the model's own")
    plan = plan_for(model.folder / "scheduler", scheduler, steps)
    return QuantizationJob(
        model=model,
        plan=plan,
        recipe=recipe,
        prompts=job_prompts(model, prompts),
        guidance=model.guidance if guidance is None else guidance,
        seed=seed,
        progress=progress,
        device=device,
        work=work,
        resume=resume,
        latents=latents,
    )
