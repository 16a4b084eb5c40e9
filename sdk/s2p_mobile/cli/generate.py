"""``s2p-mobile generate``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2p_mobile.cli.console import TerminalProgress, say
from s2p_mobile.cli.options import LoraOption, ReleaseOption, SeedOption


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("generate")(generate)


def generate(
    source: Annotated[str, typer.Argument(help="'demo', a model folder, a checkpoint or a bundle.")],
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="PNG to write.")] = Path("picture.png"),
    negative_prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What to stay away from; needs a guidance above 1.")
    ] = None,
    seed: SeedOption = 0,
    scheduler: Annotated[str | None, typer.Option(help="Sampler of a model; checkpoints and bundles have their own.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Steps of a model; its own when left out.")] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, max=100, help="Guidance of a model; the family's when left out.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH", help="Size in pixels, of a model or of a bundle converted with --size; its own when left out."
        ),
    ] = None,
    lora: LoraOption = None,
    release_chunks: ReleaseOption = False,
) -> None:
    """Draw a picture."""
    from s2p_mobile.judge.artist import draw_with, open_artist
    from s2p_runtime.errors import S2PError
    from s2p_runtime.pictures import save_picture

    if out.suffix.lower() != ".png":
        raise S2PError(f"{out} is no .png file", "pictures are written as PNG")
    if not out.parent.is_dir():
        raise S2PError(f"folder {out.parent} does not exist", "make it first or choose another `out`", "out")
    artist = open_artist(
        source, scheduler=scheduler, steps=steps, guidance=guidance, size=size, loras=lora or (), release_chunks=release_chunks
    )
    drawing = draw_with(artist, prompt, seed, negative_prompt, TerminalProgress())
    save_picture(out, drawing.picture)
    if drawing.tokens_dropped:
        typer.echo(f"note: the prompt is too long; its last {drawing.tokens_dropped} tokens were left out", err=True)
    say(f"picture: {out}")
