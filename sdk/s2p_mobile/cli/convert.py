"""``s2p-mobile convert``"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from s2p_mobile.api.bundling import known_residency, opened_conversion
from s2p_mobile.api.progress import listener
from s2p_mobile.cli.console import emit_json, say, size
from s2p_mobile.cli.options import ForceOption, JsonOption, OutFolder, path_or_demo
from s2p_mobile.cli.residency import residency_line
from s2p_mobile.cli.target_options import given_options, target_parameters
from s2p_runtime.errors import S2PError

if TYPE_CHECKING:
    from s2p_converters.core.checkpoint import Checkpoint
    from s2p_converters.targets.protocol import Notes
    from s2p_runtime.bundle import Bundle

NAME = "convert"


class _WithTargets(TyperCommand):
    """The command with the options of all installed targets, which are looked for when it is called and not with every command."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """See click: the context is that of the complete command."""
        from s2p_converters.targets.registry import TARGETS

        if (name := _target_in(args)) is not None:
            TARGETS.get(name)  # says which there are, before an option that only this one has seems to be unknown
        complete = typer.Typer(add_completion=False, rich_markup_mode=None)
        complete.command(NAME)(_with_options(convert))
        return typer.main.get_command(complete).make_context(info_name, args, parent, **extra)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(NAME, cls=_WithTargets, help=convert.__doc__)(_stand_in)


def _stand_in() -> None:
    """What Typer lists; :class:`_WithTargets` puts the command in its place."""


def _target_in(arguments: list[str]) -> str | None:
    """The word after the option that names the target."""
    for place, word in enumerate(arguments):
        if word == "--target":
            return next(iter(arguments[place + 1 :]), None)
        if word.startswith("--target="):
            return word.partition("=")[2]
    return None


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with a parameter for each option of the installed targets in place of its keywords."""
    from s2p_converters.targets.registry import TARGETS

    signature = inspect.signature(command, eval_str=True)
    own = {each.name: each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD}
    where = typer.Option(help=f"Where it will run: {TARGETS.listing}.", show_default=False)
    first = [own.pop("target").replace(annotation=Annotated[str, where]), own.pop("checkpoint"), own.pop("out")]
    added = target_parameters(TARGETS.entries.values(), {"target", "checkpoint", "out", *own})

    def call(**values: Any) -> None:
        command(**values)

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*first, *added, *own.values())]
    call.__doc__ = command.__doc__
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call


def convert(
    target: str,
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            help="S2P checkpoint, or a model folder that holds one; the demo model's when left out.", callback=path_or_demo
        ),
    ] = None,
    out: OutFolder = None,
    archive: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the download form as one .s2pmobile.zip, where the target has one."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where programs of text encoders and VAE wait for the next conversion.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Convert all anew, and keep nothing for the next time.")] = False,
    force: ForceOption = False,
    json: JsonOption = None,
    **options: Any,
) -> None:
    """Convert an S2P checkpoint into an app-ready bundle, checked against its golden runs."""
    start = time.monotonic()
    given = given_options(options)
    if cache is not None and no_cache:
        raise S2PError("--cache and --no-cache contradict each other", "give one of them")
    kept: Path | bool = cache or not no_cache
    with opened_conversion(
        checkpoint, target=target, out=out, options=given, archive=archive, force=force, cache=kept
    ) as conversion:
        notes, source = conversion.notes, conversion.checkpoint
        for line in (f"converting {conversion.title}", *(f"note: {line}" for line in notes.before)):
            say(line, json)
        bundle = conversion.run(listener(True))
    if archive is not None:
        say(f"archive: {archive} ({size(archive.stat().st_size)})", json)
    _report(bundle, source, time.monotonic() - start, notes, json)


def _report(bundle: Bundle, source: Checkpoint, seconds: float, notes: Notes, json: str | None) -> None:
    from s2p_runtime.bundle import component_bytes

    manifest, destination = bundle.manifest, bundle.folder
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
    residency = known_residency(bundle)
    if residency is not None:
        say(f"{residency_line(residency)}; s2p-mobile inspect {destination} --residency", json)
    for line in notes.after:
        say(line, json)
    say(f"next: s2p-mobile verify {destination}", json)
    from s2p_runtime.bench.memory_pass import peak_resident_bytes

    emit_json(
        json,
        {
            "bundle": str(destination),
            "target": manifest.target,
            "seconds": seconds,
            "peak_rss_bytes": peak_resident_bytes(),
            **notes.figures,
            **({} if residency is None else {"residency": {each.title: each.figures for each in residency.programs}}),
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
