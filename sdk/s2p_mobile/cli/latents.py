"""``s2p-mobile latents``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import s2p_mobile
from s2p_mobile.cli.console import say
from s2p_mobile.cli.options import (
    AllowPickleOption,
    CountOption,
    DeviceOption,
    EmbeddingOption,
    ForceOption,
    GuidanceOption,
    LoraOption,
    ModelArgument,
    PromptsOption,
    SchedulerOption,
    SeedOption,
    SizeOption,
    StepsOption,
    SubsetSeedOption,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("latents")(latents)


def latents(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the data set.")],
    model: ModelArgument = None,
    size: SizeOption = None,
    lora: LoraOption = None,
    embedding: EmbeddingOption = None,
    allow_pickle: AllowPickleOption = False,
    prompts: PromptsOption = None,
    count: CountOption = None,
    subset_seed: SubsetSeedOption = None,
    scheduler: SchedulerOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    features: Annotated[bool, typer.Option("--features", help="Store the block outputs too; several times larger.")] = False,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished set.")] = False,
    force: ForceOption = False,
) -> None:
    """Draw prompts with the floating-point model and store the trajectories for training; 512 of them without --prompts."""
    dataset = s2p_mobile.latents(
        model, out=out, prompts=prompts, count=count, subset_seed=subset_seed, features=features, size=size, lora=lora or (),
        embedding=embedding or (), allow_pickle=allow_pickle, scheduler=scheduler, steps=steps, guidance=guidance,
        device=device, seed=seed, resume=resume, force=force, progress=True,
    )  # fmt: skip
    say(f"latents: {out} ({dataset.prompts} prompts, {dataset.calls} calls each)")
    say(f"next: s2p-mobile quantize {model or ''} --latents {out} --out checkpoint".replace("  ", " "))
