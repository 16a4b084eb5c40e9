"""``s2p-mobile inspect``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import s2p_mobile
from s2p_mobile.cli.console import emit_json, say, size
from s2p_mobile.cli.options import JsonOption
from s2p_mobile.cli.residency import residency_lines


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect")(inspect)


def inspect(
    path: Annotated[Path, typer.Argument(help="Checkpoint or bundle folder.")],
    residency: Annotated[
        bool,
        typer.Option("--residency", help="Of a bundle: which operators are expected to stay on the device's accelerator."),
    ] = False,
    json: JsonOption = None,
) -> None:
    """Show what a checkpoint or a bundle holds, layer by layer."""
    description = s2p_mobile.inspect(path, residency=residency)
    if description.residency is not None:
        for line in residency_lines(description.residency):
            say(line, json)
        emit_json(json, {**description.facts, "residency": description.residency.model_dump(mode="json")})
        return
    for title, value in description.facts.items():
        say(f"{title:<12} {value}", json)
    say(f"{'layer':<62} {'kind':<6} {'weights':>9} {'bits':>5} {'act':>5}  {'bytes':>9}  scheme", json)
    for layer in description.layers:
        activation = "float" if layer.activation_bits is None else str(layer.activation_bits)
        say(
            f"{layer.name:<62} {layer.kind:<6} {layer.weights:>9} {layer.weight_bits:>5} {activation:>5}  "
            f"{layer.bytes:>9}  {layer.scheme}",
            json,
        )
    left = [layer.name for layer in description.layers if layer.weight_bits >= 16]
    say(f"left in float: {', '.join(left) or 'none'}", json)
    say(f"layers: {size(sum(layer.bytes for layer in description.layers))}", json)
    layers = [layer.model_dump(mode="json") for layer in description.layers]
    emit_json(json, {**description.facts, "left_in_float": left, **description.detail, "layers": layers})
