"""``s2p-mobile evaluate``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import s2p_mobile
from s2p_mobile.cli.console import emit_json, say
from s2p_mobile.cli.options import (
    AllowPickleOption,
    DeviceOption,
    EmbeddingOption,
    GuidanceOption,
    JsonOption,
    LoraOption,
    SchedulerOption,
    SeedOption,
    SizeOption,
    SourceArgument,
    StepsOption,
    path_or_demo,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate")(evaluate)


def evaluate(
    source: SourceArgument,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Prompts, one a line; those that the model names when left out.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The floating-point model, when it is not the demo model.", callback=path_or_demo)
    ] = None,
    scheduler: SchedulerOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    size: SizeOption = None,
    lora: LoraOption = None,
    embedding: EmbeddingOption = None,
    allow_pickle: AllowPickleOption = False,
    count: Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts.")] = None,
    metrics: Annotated[list[str] | None, typer.Option(help="Metric to compute; may be repeated. All when left out.")] = None,
    clip: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of a CLIP model for the CLIP score.")] = None,
    grid: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Picture of FP, quantized and difference side by side.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Where FP pictures are kept.")] = None,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Compare pictures with those of the floating-point model: FID, sFID, SSIM, LPIPS, PSNR, CLIP score."""
    result = s2p_mobile.evaluate(
        source, prompts=prompts, model=model, count=count, size=size, lora=lora or (), embedding=embedding or (),
        allow_pickle=allow_pickle, scheduler=scheduler, steps=steps, guidance=guidance, device=device, seed=seed,
        metrics=metrics, clip=clip, grid=grid,
        cache=cache or True, progress=True,
    )  # fmt: skip
    say(f"{result.source}: {result.count} prompts, {result.steps} steps, seeds from {result.seed}", json)
    for name, metric in result.metrics.items():
        value = (metric.reason or "none") if metric.value is None else f"{metric.value:.4f}"
        say(f"{name:<14} {value:>12}  {metric.network or ''}".rstrip(), json)
    series = " ".join("inf" if value is None else f"{value:.1f}" for value in result.latent_psnr_db_per_call)
    say(f"latent PSNR per call (dB): {series}", json)
    if grid is not None:
        say(f"grid: {grid}", json)
    emit_json(json, result.model_dump(mode="json"))
