"""``s2p-mobile evaluate``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2p_mobile.cli.console import TerminalProgress, emit_json, say
from s2p_mobile.cli.options import JsonOption, LoraOption, SeedOption, SizeOption


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate")(evaluate)


def evaluate(
    source: Annotated[str, typer.Argument(help="Checkpoint, bundle, model folder or 'demo'.")],
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Prompts, one a line; the demo model's held-out ones when left out.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The floating-point model, when it is not the demo model.")] = None,
    size: SizeOption = None,
    lora: LoraOption = None,
    count: Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts.")] = None,
    metrics: Annotated[list[str] | None, typer.Option(help="Metric to compute; may be repeated. All when left out.")] = None,
    clip: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of a CLIP model for the CLIP score.")] = None,
    grid: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Picture of FP, quantized and difference side by side.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Where FP pictures are kept.")] = None,
    device: Annotated[str, typer.Option(help="Where the U-Nets run: cpu, cuda or mps.")] = "cpu",
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Compare pictures with those of the floating-point model: FID, sFID, SSIM, LPIPS, PSNR, CLIP score."""
    from s2p_mobile.demo import HELD_OUT_PROMPTS
    from s2p_mobile.judge.evaluation import default_cache_folder, open_source
    from s2p_mobile.judge.evaluation import evaluate as compare
    from s2p_mobile.judge.metrics import check_metrics
    from s2p_mobile.judge.source_kind import source_kind
    from s2p_mobile.sources.model import open_model
    from s2p_mobile.sources.pixel_size import PixelSize
    from s2p_mobile.sources.prompts import long_prompts, read_prompts
    from s2p_runtime.errors import S2PError

    check_metrics(metrics)
    is_model = source_kind(source) == "model"
    if model is not None and is_model:
        raise S2PError(
            "`model` names the floating-point model of a checkpoint or a bundle", "leave it out for a model", "model"
        )
    given = source if is_model else model
    chosen = None if size is None else PixelSize.parse(size)
    known = given is not None or chosen is not None or lora
    opened = open_source(source, open_model(given, chosen, lora or ()) if known else None, device=device)
    texts = read_prompts(prompts or HELD_OUT_PROMPTS)
    for warning in long_prompts(texts[:count], opened.model.conditioner.tokenizer):
        say(f"note: {warning}", "-")
    result = compare(
        opened,
        texts,
        seed=seed,
        count=count,
        metrics=metrics,
        cache=cache or default_cache_folder(),
        grid=grid,
        clip=clip,
        progress=TerminalProgress(),
    )
    say(f"{result.source}: {result.count} prompts, {result.steps} steps, seeds from {result.seed}", json)
    for name, metric in result.metrics.items():
        value = (metric.reason or "none") if metric.value is None else f"{metric.value:.4f}"
        say(f"{name:<14} {value:>12}  {metric.network or ''}".rstrip(), json)
    series = " ".join("inf" if value is None else f"{value:.1f}" for value in result.latent_psnr_db_per_call)
    say(f"latent PSNR per call (dB): {series}", json)
    if grid is not None:
        say(f"grid: {grid}", json)
    emit_json(json, result.model_dump(mode="json"))
