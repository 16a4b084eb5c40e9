"""``s2p-mobile quantize``"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

from s2p_mobile.cli.console import TerminalProgress, emit_json, say
from s2p_mobile.cli.options import (
    CountOption,
    ForceOption,
    JsonOption,
    LoraOption,
    PromptsOption,
    SeedOption,
    SizeOption,
    SubsetSeedOption,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("quantize")(quantize)


def quantize(
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Checkpoint folder to write; needed but for --dry-run.")
    ] = None,
    model: Annotated[str | None, typer.Argument(help="Diffusers folder or .safetensors file; the demo model.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe by name or a .yaml file; w4a8-mixed when left out.")] = None,
    method: Annotated[str, typer.Option(help="Quantization method, see s2p-mobile models.")] = "s2p",
    pipeline: Annotated[
        str | None, typer.Option(help="Training pipeline: s2p, serial or parallel; the recipe's when left out.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="Sampler; the model's own when left out.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Denoising steps; 25, or the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance; the family's when left out.")] = None,
    size: SizeOption = None,
    lora: LoraOption = None,
    prompts: PromptsOption = None,
    count: CountOption = None,
    subset_seed: SubsetSeedOption = None,
    seed: SeedOption = 0,
    latents: Annotated[Path | None, typer.Option(metavar="DIR", help="Latent data set of s2p-mobile latents.")] = None,
    sensitivity: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rank layers by a result of s2p-mobile sensitivity.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where training runs: auto, cpu, cuda or mps.")] = "auto",
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
    from s2p_converters.core.resources import checkpoint_bytes, require_disk
    from s2p_mobile.quantize.checkpointing import write_checkpoint
    from s2p_mobile.quantize.jobs import make_job
    from s2p_mobile.quantize.methods import METHODS, run_method
    from s2p_mobile.quantize.training.offload import saved_elsewhere
    from s2p_mobile.quantize.work import forget_unfinished, work_folder
    from s2p_mobile.quantize.workers import choose_device, is_main_process
    from s2p_mobile.sources.prompts import long_prompts
    from s2p_runtime.errors import S2PError
    from s2p_runtime.files import atomic_folder, refuse_existing

    keeps_work = METHODS.get(method).keeps_work
    if out is None and not dry_run:
        raise S2PError("missing option '`out`'", "see s2p-mobile quantize `help`", "out")
    if out is not None:
        refuse_existing(out, force)
    work = work_folder(out) if out is not None and keeps_work else None
    if work is not None and force and not resume and not dry_run:
        shutil.rmtree(work, ignore_errors=True)
    start = time.monotonic()
    job = make_job(
        model,
        recipe_name=recipe,
        scheduler=scheduler,
        steps=steps,
        guidance=guidance,
        prompts=prompts,
        seed=seed,
        progress=TerminalProgress(),
        method=method,
        pipeline=pipeline,
        device=device,
        work=work,
        resume=resume,
        latents=latents,
        sensitivity=sensitivity,
        size=size,
        loras=lora or (),
        count=count,
        subset_seed=subset_seed,
    )
    if job.recipe.training.offload_activations and not saved_elsewhere(choose_device(job.device)):
        say("note: training.offload_activations has no effect on this device, whose memory is the machine's own", json)
    if dry_run:
        from s2p_mobile.quantize.forecast import forecast_lines, make_forecast

        # Libraries are loaded and the model is found by now, as in the run that is foreseen.
        forecast = make_forecast(job, method, start_seconds=time.process_time())
        for line in forecast_lines(forecast):
            say(line, json)
        emit_json(json, forecast.model_dump(mode="json"))
        return
    assert out is not None
    space = checkpoint_bytes(job.model.folder, job.model.family.folders)
    require_disk(out, space, "the checkpoint", "free some, or give another --out")
    if prompts is not None:
        for warning in long_prompts(job.prompts, job.model.tokenizer):
            say(f"note: {warning}", "-")
    job.model.load()
    unet = run_method(method, job)
    if not is_main_process():
        return
    with atomic_folder(out, force=force) as folder:
        manifest = write_checkpoint(job, method, unet, folder)
    if work is not None:
        forget_unfinished(work)
    seconds = time.monotonic() - start
    counts = manifest.layer_counts
    listing = ", ".join(
        f"{count} x {'float' if bits == 'float' else bits + ' bits'}" for bits, count in counts.items() if count
    )
    say(
        f"checkpoint: {out} ({method}, {job.recipe.name}, {manifest.average_weight_bits:.2f} bits a weight; layers: {listing})",
        json,
    )
    say(f"next: s2p-mobile convert {out} --target coreml", json)
    emit_json(
        json,
        {
            "checkpoint": str(out),
            "method": method,
            "seconds": seconds,
            "average_weight_bits": manifest.average_weight_bits,
            "layers": counts,
        },
    )
