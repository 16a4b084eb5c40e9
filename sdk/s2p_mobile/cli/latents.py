"""``s2p-mobile latents``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2p_mobile.cli.console import TerminalProgress, say
from s2p_mobile.cli.options import (
    CountOption,
    ForceOption,
    LoraOption,
    PromptsOption,
    SeedOption,
    SizeOption,
    SubsetSeedOption,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("latents")(latents)


def latents(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the data set.")],
    model: Annotated[str | None, typer.Argument(help="Diffusers folder; the demo model when left out.")] = None,
    size: SizeOption = None,
    lora: LoraOption = None,
    prompts: PromptsOption = None,
    count: CountOption = None,
    subset_seed: SubsetSeedOption = None,
    scheduler: Annotated[str | None, typer.Option(help="Sampler; the model's own when left out.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Denoising steps; 25, or the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, max=100, help="Guidance; the family's when left out.")] = None,
    features: Annotated[bool, typer.Option("--features", help="Store the block outputs too; several times larger.")] = False,
    seed: SeedOption = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished set.")] = False,
    force: ForceOption = False,
) -> None:
    """Draw prompts with the floating-point model and store the trajectories for training; 512 of them without --prompts."""
    from s2p_converters.core.plan import plan_for
    from s2p_mobile.quantize.jobs import job_prompts
    from s2p_mobile.quantize.latents import LatentJob, write_latents
    from s2p_mobile.quantize.recipes.training import TrainingRule
    from s2p_mobile.sources.model import open_model
    from s2p_mobile.sources.pixel_size import PixelSize
    from s2p_mobile.sources.prompts import long_prompts, repeated

    source = open_model(model, None if size is None else PixelSize.parse(size), lora or ())
    texts = job_prompts(source, prompts, count, subset_seed)
    if prompts is None and count is None:
        texts = repeated(texts, TrainingRule().prompts)
    if prompts is not None:
        for warning in long_prompts(texts, source.conditioner.tokenizer):
            say(f"note: {warning}", "-")
    plan = plan_for(source.folder / "scheduler", scheduler, steps or source.steps)
    job = LatentJob(source, plan, texts, source.choose_guidance(guidance), seed, features)
    write_latents(job, out, resume=resume, force=force, progress=TerminalProgress())
    say(f"latents: {out} ({len(texts)} prompts, {len(plan.calls)} calls each)")
    say(f"next: s2p-mobile quantize {model or ''} --latents {out} --out checkpoint".replace("  ", " "))
