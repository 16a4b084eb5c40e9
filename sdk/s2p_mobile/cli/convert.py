"""``s2p-mobile convert``"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from s2p_mobile.cli.console import TerminalProgress, emit_json, peak_rss_bytes, say, size
from s2p_mobile.cli.options import ForceOption, JsonOption, OutFolder

TARGETS = ("coreml",)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("convert")(convert)


def convert(
    target: Annotated[str, typer.Option(help=f"Where it will run: {', '.join(TARGETS)}.")],
    checkpoint: Annotated[Path | None, typer.Argument(help="S2P checkpoint; the demo model's when left out.")] = None,
    out: OutFolder = None,
    minimum_os: Annotated[str, typer.Option(help="Core ML: iOS16, iOS17 or iOS18.")] = "iOS17",
    palette: Annotated[str, typer.Option(help="Core ML, 4 bits: per-tensor or per-channel (iOS18).")] = "per-tensor",
    eight_bit: Annotated[str, typer.Option(help="Core ML, 8 bits: linear or palette.")] = "linear",
    activations: Annotated[str, typer.Option(help="Core ML: int8 or float16.")] = "int8",
    precision: Annotated[str, typer.Option(help="Core ML: arithmetic of U-Net and text encoder, fp16 or fp32.")] = "fp16",
    vae_precision: Annotated[str, typer.Option(help="Core ML: arithmetic of the VAE decoder, fp16 or fp32.")] = "fp32",
    force: ForceOption = False,
    json: JsonOption = None,
) -> None:
    """Convert an S2P checkpoint into an app-ready bundle, checked against its golden runs."""
    from s2p_runtime.errors import S2PError
    from s2p_runtime.files import atomic_folder, refuse_existing

    start = time.monotonic()
    if target not in TARGETS:
        raise S2PError(f"unknown target {target!r}; targets are {', '.join(TARGETS)}")
    from s2p_converters.coreml.options import CoreMLOptions

    options = CoreMLOptions(
        minimum_os=minimum_os,  # type: ignore[arg-type]
        palette=palette,  # type: ignore[arg-type]
        eight_bit=eight_bit,  # type: ignore[arg-type]
        activations=activations,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        vae_precision=vae_precision,  # type: ignore[arg-type]
    )
    destination = out or Path(f"{checkpoint.resolve().name if checkpoint else 'demo'}-{target}.s2pmobile")
    refuse_existing(destination, force)

    from s2p_converters.checkpoint import open_checkpoint
    from s2p_mobile.demo.checkpoint import checkpoint_folder

    with checkpoint_folder(checkpoint) as folder:
        source = open_checkpoint(folder)
        _say_notes(options, source.manifest.title, json)
        from s2p_converters.coreml.target import convert_checkpoint

        with atomic_folder(destination, force=force) as scratch:
            manifest = convert_checkpoint(source, options, scratch, TerminalProgress())
    summary = manifest.quantization
    counts = source.manifest.layer_counts
    seconds = time.monotonic() - start
    ratio = summary.unet_fp32_bytes / summary.unet_bytes
    say(f"bundle: {destination} ({seconds:.0f} s)", json)
    say(
        f"U-Net: {size(summary.unet_fp32_bytes // 2)} in fp16, {size(summary.unet_bytes)} quantized "
        f"({ratio / 2:.1f}x smaller than fp16, {ratio:.1f}x than fp32), {summary.average_weight_bits:.2f} bits a weight",
        json,
    )
    say(f"next: s2p-mobile verify {destination}", json)
    emit_json(
        json,
        {
            "bundle": str(destination),
            "target": target,
            "seconds": seconds,
            "peak_rss_bytes": peak_rss_bytes(),
            "unet": {
                "bytes": summary.unet_bytes,
                "fp32_bytes": summary.unet_fp32_bytes,
                "download_bytes": summary.unet_download_bytes,
                "average_weight_bits": summary.average_weight_bits,
                "layers": counts,
            },
        },
    )


def _say_notes(options: object, title: str, json: str | None) -> None:
    from s2p_converters.coreml.options import CoreMLOptions

    assert isinstance(options, CoreMLOptions)
    say(
        f"converting {title} for Core ML, {options.minimum_os}, {options.palette} palettes, {options.activations} activations",
        json,
    )
    if options.quantizes_activations and not options.has_quantize_operator:
        say("note: iOS16 has no quantize operator; activations are rounded to the same 8-bit values in float", json)
