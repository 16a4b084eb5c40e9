"""``s2p-mobile convert``"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2p_mobile.api.terminal import TerminalProgress
from s2p_mobile.cli.console import emit_json, say, size
from s2p_mobile.cli.options import ForceOption, JsonOption, OutFolder

if TYPE_CHECKING:
    from s2p_converters.core.checkpoint import Checkpoint
    from s2p_converters.targets.coreml.apple_pipeline import PipelineSettings
    from s2p_runtime.bundle import BundleManifest
    from s2p_runtime.progress import Progress


@dataclass(frozen=True)
class _Target:
    """A target with its options chosen: what it is in words, and the conversion into an empty folder.

    ``settings``: what an app with a pipeline of its own has to set for a checkpoint.
    """

    title: str
    convert: Callable[[Checkpoint, Path, Progress], BundleManifest]
    note: str | None = None
    settings: Callable[[Checkpoint], PipelineSettings] | None = None


def _coreml(options: dict[str, Any]) -> _Target:
    from s2p_converters.targets.coreml.options import CoreMLOptions

    chosen = CoreMLOptions(**options)
    note = None
    if chosen.quantizes_activations and not chosen.has_quantize_operator:
        note = "iOS16 has no quantize operator; activations are rounded to the same 8-bit values in float"

    def convert_to(checkpoint: Checkpoint, folder: Path, progress: Progress) -> BundleManifest:
        from s2p_converters.targets.coreml.target import convert_checkpoint

        return convert_checkpoint(checkpoint, chosen, folder, progress)

    title = f"Core ML, {chosen.minimum_os}, {chosen.palette} palettes, {chosen.activations} activations"
    if chosen.layout != "apple":
        return _Target(title, convert_to, note)

    def settings(checkpoint: Checkpoint) -> PipelineSettings:
        from s2p_converters.targets.coreml.apple_pipeline import pipeline_settings

        return pipeline_settings(checkpoint)

    return _Target(f"{title}, Apple's layout", convert_to, note, settings)


def _executorch(options: dict[str, Any]) -> _Target:
    from s2p_runtime.errors import S2PError

    try:
        from s2p_converters.targets.executorch.options import ExecuTorchOptions
    except ImportError as error:
        raise S2PError("ExecuTorch is not installed", "run pip install 's2p-mobile[executorch]'") from error
    chosen = ExecuTorchOptions(**options)

    def convert_to(checkpoint: Checkpoint, folder: Path, progress: Progress) -> BundleManifest:
        from s2p_converters.targets.executorch.target import convert_checkpoint

        return convert_checkpoint(checkpoint, chosen, folder, progress)

    return _Target(f"ExecuTorch, {chosen.backend}", convert_to)


TARGETS: dict[str, Callable[[dict[str, Any]], _Target]] = {"coreml": _coreml, "executorch": _executorch}
_OPTIONS_OF = {
    "minimum_os": "coreml",
    "palette": "coreml",
    "eight_bit": "coreml",
    "activations": "coreml",
    "precision": "coreml",
    "vae_precision": "coreml",
    "layout": "coreml",
    "backend": "executorch",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("convert")(convert)


def convert(
    target: Annotated[str, typer.Option(help=f"Where it will run: {' or '.join(TARGETS)}.")],
    checkpoint: Annotated[Path | None, typer.Argument(help="S2P checkpoint; the demo model's when left out.")] = None,
    out: OutFolder = None,
    minimum_os: Annotated[str | None, typer.Option(help="Core ML: iOS16, iOS17 (default) or iOS18.")] = None,
    palette: Annotated[str | None, typer.Option(help="Core ML: per-tensor (default) or per-channel (iOS18).")] = None,
    eight_bit: Annotated[str | None, typer.Option(help="Core ML, 8-bit layers: linear (default) or palette.")] = None,
    activations: Annotated[str | None, typer.Option(help="Core ML: int8 (default) or float16.")] = None,
    precision: Annotated[str | None, typer.Option(help="Core ML: U-Net and text encoder in fp16 (default) or fp32.")] = None,
    vae_precision: Annotated[str | None, typer.Option(help="Core ML: VAE decoder in fp32 (default) or fp16.")] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="Core ML: s2p (default), or apple for apps on apple/ml-stable-diffusion's Swift pipeline."),
    ] = None,
    backend: Annotated[str | None, typer.Option(help="ExecuTorch: xnnpack (default), coreml or vulkan.")] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--size", metavar="WxH", help="Also draw pictures of this size in pixels; may be repeated. Weights are shared."
        ),
    ] = None,
    chunks: Annotated[
        int,
        typer.Option(metavar="N", help="Split the U-Net into so many programs, for phones that cannot hold the whole."),
    ] = 1,
    archive: Annotated[
        Path | None, typer.Option(metavar="FILE", help="ExecuTorch: also write the download form, one .s2pmobile.zip.")
    ] = None,
    force: ForceOption = False,
    json: JsonOption = None,
) -> None:
    """Convert an S2P checkpoint into an app-ready bundle, checked against its golden runs."""
    from s2p_runtime.allocator import give_back_large_blocks
    from s2p_runtime.bundle import parse_size
    from s2p_runtime.errors import S2PError
    from s2p_runtime.files import atomic_folder, refuse_existing

    give_back_large_blocks()
    start = time.monotonic()
    given = {
        "minimum_os": minimum_os,
        "palette": palette,
        "eight_bit": eight_bit,
        "activations": activations,
        "precision": precision,
        "vae_precision": vae_precision,
        "layout": layout,
        "backend": backend,
    }
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if sizes:
        options["sizes"] = tuple(parse_size(text) for text in sizes)
    if chunks < 1:
        raise S2PError(f"`chunks={chunks}` is out of range", "give 1 or more", "chunks")
    if chunks > 1:
        options["chunks"] = chunks
    chosen = _choose(target, options)
    if archive is not None and target != "executorch":
        raise S2PError(
            "`archive` is an option of the ExecuTorch target", "Core ML packages are small as they are, leave it out", "archive"
        )
    destination = out or Path(f"{checkpoint.resolve().name if checkpoint else 'demo'}-{target}.s2pmobile")
    refuse_existing(destination, force)
    if archive is not None:
        refuse_existing(archive, force)

    from s2p_converters.core.checkpoint import open_checkpoint
    from s2p_converters.targets.needs import require_conversion
    from s2p_mobile.sources.default_checkpoint import default_checkpoint
    from s2p_mobile.sources.model import open_model

    with default_checkpoint(open_model(None)) if checkpoint is None else nullcontext(checkpoint) as folder:
        source = open_checkpoint(folder)
        settings = chosen.settings(source) if chosen.settings else None
        say(f"converting {source.manifest.title} for {chosen.title}", json)
        if chosen.note:
            say(f"note: {chosen.note}", json)
        require_conversion(source, target, destination)
        with atomic_folder(destination, force=force) as scratch:
            manifest = chosen.convert(source, scratch, TerminalProgress())
    if archive is not None:
        from s2p_converters.targets.executorch.archive import write_archive

        write_archive(destination, archive, force=force)
        say(f"archive: {archive} ({size(archive.stat().st_size)})", json)
    _report(manifest, source, target, destination, time.monotonic() - start, settings, json)


def _choose(target: str, given: dict[str, Any]) -> _Target:
    from s2p_runtime.errors import S2PError

    if target not in TARGETS:
        raise S2PError(f"unknown target {target!r}", f"targets are {', '.join(TARGETS)}")
    for name in given:
        if _OPTIONS_OF.get(name, target) != target:
            option = name.replace("_", "-")
            raise S2PError(f"--{option} is an option of the target {_OPTIONS_OF[name]}", f"leave it out for {target}")
    return TARGETS[target](given)


def _report(
    manifest: BundleManifest,
    source: Checkpoint,
    target: str,
    destination: Path,
    seconds: float,
    settings: PipelineSettings | None,
    json: str | None,
) -> None:
    from s2p_runtime.bundle import component_bytes

    summary = manifest.quantization
    ratio = summary.unet_fp32_bytes / summary.unet_bytes
    say(f"bundle: {destination} ({seconds:.0f} s)", json)
    if len(manifest.sizes) > 1:
        say(f"sizes: {', '.join(each.title for each in manifest.sizes)}", json)
    if manifest.chunks:
        parts = component_bytes(manifest)
        say(f"U-Net in {len(manifest.chunks)} programs: {', '.join(size(parts[name]) for name in manifest.chunks)}", json)
    say(
        f"U-Net: {size(summary.unet_fp32_bytes // 2)} in fp16, {size(summary.unet_bytes)} quantized "
        f"({ratio / 2:.1f}x smaller than fp16, {ratio:.1f}x than fp32), {summary.average_weight_bits:.2f} bits a weight",
        json,
    )
    if summary.unet_download_bytes != summary.unet_bytes:
        say(f"U-Net in the download form: {size(summary.unet_download_bytes)}", json)
    if settings is not None:
        say(f"pipeline settings: {settings.describe()}", json)
        for note in settings.notes:
            say(f"note: {note}", json)
        say("compile Resources/*.mlpackage on a Mac before an app loads the folder: docs/devices.md", json)
    say(f"next: s2p-mobile verify {destination}", json)
    from s2p_runtime.bench.memory_pass import peak_resident_bytes

    emit_json(
        json,
        {
            "bundle": str(destination),
            "target": target,
            "seconds": seconds,
            "peak_rss_bytes": peak_resident_bytes(),
            "pipeline": asdict(settings) if settings else None,
            "unet": {
                "bytes": summary.unet_bytes,
                "fp32_bytes": summary.unet_fp32_bytes,
                "download_bytes": summary.unet_download_bytes,
                "average_weight_bits": summary.average_weight_bits,
                "layers": source.manifest.layer_counts,
                "chunks": {name: component_bytes(manifest)[name] for name in manifest.chunks},
            },
        },
    )
