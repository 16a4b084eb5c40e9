"""``s2p-mobile quantize``"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import s2p_mobile
from s2p_mobile.cli.console import emit_json, say
from s2p_mobile.cli.options import (
    AllowPickleOption,
    CountOption,
    DeviceOption,
    EmbeddingOption,
    ForceOption,
    GuidanceOption,
    JsonOption,
    LoraOption,
    ModelArgument,
    PromptsOption,
    SchedulerOption,
    SeedOption,
    SizeOption,
    StepsOption,
    SubsetSeedOption,
)

if TYPE_CHECKING:
    from s2p_converters.core.checkpoint import Checkpoint


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("quantize")(quantize)


def quantize(
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Checkpoint folder to write; needed but for --dry-run.")
    ] = None,
    model: ModelArgument = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe by name or a .yaml file; w4a8-mixed when left out.")] = None,
    method: Annotated[str, typer.Option(help="Quantization method, see s2p-mobile models.")] = "s2p",
    pipeline: Annotated[
        str | None, typer.Option(help="Training pipeline: s2p, serial or parallel; the recipe's when left out.")
    ] = None,
    scheduler: SchedulerOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    size: SizeOption = None,
    lora: LoraOption = None,
    embedding: EmbeddingOption = None,
    allow_pickle: AllowPickleOption = False,
    prompts: PromptsOption = None,
    count: CountOption = None,
    subset_seed: SubsetSeedOption = None,
    seed: SeedOption = 0,
    latents: Annotated[Path | None, typer.Option(metavar="DIR", help="Latent data set of s2p-mobile latents.")] = None,
    sensitivity: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rank layers by a result of s2p-mobile sensitivity.")
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Take bit-widths, zero points and rounding over from a checkpoint of this architecture."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Lower the recipe's counts until the run takes so long here, such as 45min."),
    ] = None,
    device: DeviceOption = "auto",
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Of the device, that the run may take, such as 12GiB; auto: what is free.")
    ] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run of a method that keeps its work.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it will take: layers and bits, disk, memory, time per device.")
    ] = False,
    force: ForceOption = False,
    json: JsonOption = None,
) -> None:
    """Quantize a model into an S2P checkpoint. Methods that can go on after an interruption keep their work in OUT.training."""
    settings: dict[str, Any] = {
        "recipe": recipe, "method": method, "pipeline": pipeline, "prompts": prompts, "count": count, "subset_seed": subset_seed,
        "size": size, "lora": lora or (), "embedding": embedding or (), "allow_pickle": allow_pickle,
        "scheduler": scheduler, "steps": steps, "guidance": guidance, "device": device, "memory": memory, "seed": seed,
        "latents": latents, "sensitivity": sensitivity, "like": like, "budget": budget,
    }  # fmt: skip
    if dry_run:
        foreseen = s2p_mobile.forecast(model, **settings)
        # Not before: what is loaded by then would not count as loading.
        from s2p_mobile.quantize.forecast import forecast_lines

        for line in forecast_lines(foreseen):
            say(line, json)
        emit_json(json, foreseen.model_dump(mode="json"))
        return
    if out is None:
        raise s2p_mobile.S2PError("missing option '`out`'", "see s2p-mobile quantize `help`", "out")
    start = time.monotonic()
    checkpoint = s2p_mobile.quantize(model, out=out, resume=resume, force=force, progress=True, **settings)
    _tell(checkpoint, time.monotonic() - start, json)


def _tell(checkpoint: Checkpoint, seconds: float, json: str | None) -> None:
    from s2p_converters.targets.registry import TARGETS
    from s2p_mobile.quantize.workers import is_main_process

    if not is_main_process():
        return
    manifest = checkpoint.manifest
    counts, bits = manifest.layer_counts, manifest.average_weight_bits
    listing = ", ".join(f"{n} x {'float' if width == 'float' else width + ' bits'}" for width, n in counts.items() if n)
    made = f"{manifest.method}, {manifest.recipe['name']}, {bits:.2f} bits a weight; layers: {listing}"
    say(f"checkpoint: {checkpoint.folder} ({made})", json)
    say(f"next: s2p-mobile convert {checkpoint.folder} --target {' or '.join(TARGETS.entries)}", json)
    figures = {"method": manifest.method, "seconds": seconds, "average_weight_bits": bits, "layers": counts}
    emit_json(json, {"checkpoint": str(checkpoint.folder), **figures})
