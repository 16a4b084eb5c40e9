"""``s2p-mobile verify``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import s2p_mobile
from s2p_mobile.cli.console import emit_json, say
from s2p_mobile.cli.options import JsonOption


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify")(verify)


def verify(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    full: Annotated[
        bool, typer.Option("--full", help="Every recorded call, and the whole loop of each golden run, instead of three calls.")
    ] = False,
    json: JsonOption = None,
) -> int:
    """Compare every component of a bundle on this machine with its golden runs. Exit status 1 when a check fails."""
    result = s2p_mobile.verify(bundle, full=full, progress=True)
    for name, component in result.components.items():
        error = "not finite" if component.max_relative_error is None else f"{component.max_relative_error:.2e}"
        verdict = "ok" if component.ok else "FAILED"
        say(f"{name:<14} relative error {error} (tolerance {component.tolerance:.0e})  {verdict}", json)
    for run in result.golden:
        if not run.loop:
            continue
        psnr = "equal" if run.latent_psnr_db is None else f"{run.latent_psnr_db:.1f} dB"
        say(f"golden run {run.id}: final latents in the program's own precision {psnr}  {'ok' if run.ok else 'FAILED'}", json)
    if result.altered_constants:
        rest = f" and {len(result.altered_constants) - 1} more" if len(result.altered_constants) > 1 else ""
        say(f"constants differ from those written: {result.altered_constants[0]}{rest}  FAILED", json)
    say("verified" if result.ok else "verification failed", json)
    emit_json(
        json,
        {
            "ok": result.ok,
            "components": {
                name: {"max_relative_error": c.max_relative_error, "tolerance": c.tolerance}
                for name, c in result.components.items()
            },
            "golden": [{"id": run.id, "loop": run.loop, "latent_psnr_db": run.latent_psnr_db} for run in result.golden],
            "altered_constants": list(result.altered_constants),
        },
    )
    return 0 if result.ok else 1
