"""``s2p-mobile forecast``"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

import s2p_mobile
from s2p_mobile.cli.console import emit_json, say, size
from s2p_mobile.cli.options import JsonOption, path_or_demo

if TYPE_CHECKING:
    from s2p_mobile.judge.roofline import Roofline
    from s2p_runtime.workload import Workload


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("forecast")(forecast)


def forecast(
    source: Annotated[
        str | None,
        typer.Argument(
            help="Checkpoint or bundle: its seconds on phones. Model: what its quantization takes; the demo model when left out.",
            callback=path_or_demo,
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option("--device", metavar="NAME", help="Of a checkpoint or bundle: iphone15pro, a16, ...; may be repeated."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Of a model: recipe by name or a .yaml file.")] = None,
    method: Annotated[str | None, typer.Option(help="Of a model: quantization method, see s2p-mobile models.")] = None,
    json: JsonOption = None,
) -> None:
    """Say beforehand: seconds on phones by public figures of their chips, or what a quantization takes."""
    from s2p_mobile.sources.open_source import is_model

    if is_model(source):
        if device:
            raise s2p_mobile.S2PError(
                "`device` is about a checkpoint or a bundle",
                "give one, or leave it out for what the quantization takes",
                "device",
            )
        foreseen = s2p_mobile.forecast(source, recipe=recipe, method=method or "s2p")
        # Not before: what is loaded by then would not count as loading.
        from s2p_mobile.quantize.forecast import forecast_lines

        for line in forecast_lines(foreseen):
            say(line, json)
        emit_json(json, foreseen.model_dump(mode="json"))
        return
    for name, value in (("recipe", recipe), ("method", method)):
        if value is not None:
            raise s2p_mobile.S2PError(f"`{name}` is about a model's quantization", "leave it out, or give a model", name)
    assert source is not None
    found = s2p_mobile.roofline(source, devices=device or ())
    for line in (*_lines(found), *(_chip_lines(found) if device else ("sources and published seconds: name a --device",))):
        say(line, json)
    emit_json(json, found.model_dump(mode="json"))


def _lines(found: Roofline) -> Iterator[str]:
    yield f"{found.source}: {found.note}"
    for work in found.workloads:
        yield _work_line(work)
    titles = ("fp16", "int8", "weights", "memory", "bound", "call", "picture", "likely call")
    yield f"{'chip':<11}" + "".join(f" {title:>11}" for title in titles)
    for chip in found.chips:
        likely = "-" if chip.likely_call_seconds is None else _seconds(chip.likely_call_seconds)
        compute = (chip.fp16_seconds, chip.compute_seconds, chip.weight_seconds, chip.memory_seconds)
        cells = (*map(_seconds, compute), chip.bound, _seconds(chip.call_seconds), _seconds(chip.picture_seconds), likely)
        yield f"{chip.chip:<11}" + "".join(f" {cell:>11}" for cell in cells)
    yield "fp16, int8: operations of a U-Net call at the peak of float16, and with those on integers at that of int8."
    yield "weights, memory: its weights at the memory's bandwidth, and its layers' activations besides."
    yield "call, picture: no less than this (int8 and weights). likely call: at the share of the peak that Apple's own run reached."


def _chip_lines(found: Roofline) -> Iterator[str]:
    """What is known of the chips, and what was measured on them."""
    for chip in found.chips:
        stated = "nothing stated" if chip.stated_tops is None else f"{chip.stated_tops:g} TOPS stated"
        doubles = "int8 by int8 at twice the speed" if chip.int8_doubles else "int8 no faster than float16"
        remark = "" if chip.remark is None else f"; {chip.remark}"
        yield f"{chip.chip} ({', '.join(chip.devices[:4])}): {stated}, {doubles}, {chip.bandwidth_gb:g} GB/s{remark}"
        for cited in chip.sources:
            yield f"    {cited}"
        for row in chip.published:
            yield (
                f"    published: {row.device}, {row.model}: {_seconds(row.call_seconds)} a call, "
                f"{row.picture_seconds:g} s a picture of {row.calls} calls, {100 * row.peak_share:.0f} % of the peak"
            )
    yield f"published: {found.published_source}"


def _work_line(work: Workload) -> str:
    parts = {
        "on integers": work.integer_operations,
        "on integers from palettes": work.palette_operations,
        "in float": work.float_operations,
    }
    listed = ", ".join(f"{100 * count / work.operations:.0f} % {words}" for words, count in parts.items() if count)
    return (
        f"{work.program}, a call of {work.batch}: {work.operations / 1e9:.2f} G operations ({listed}), "
        f"{size(work.weight_bytes)} of weights, {size(work.activation_bytes)} of activations; {work.runs} a picture"
    )


def _seconds(value: float) -> str:
    return f"{1e6 * value:.0f} us" if value < 1e-3 else f"{1e3 * value:.1f} ms" if value < 1 else f"{value:.2f} s"
