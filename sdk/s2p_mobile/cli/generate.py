"""``s2p-mobile generate``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import s2p_mobile
from s2p_mobile.cli.console import say
from s2p_mobile.cli.options import (
    AllowPickleOption,
    DeviceOption,
    EmbeddingOption,
    GuidanceOption,
    LoraOption,
    ReleaseOption,
    SchedulerOption,
    SeedOption,
    SourceArgument,
    StepsOption,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("generate")(generate)


def generate(
    source: SourceArgument,
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="PNG to write.")] = Path("picture.png"),
    negative_prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What to stay away from; needs a guidance above 1.")
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Picture to start from; bundles need convert --image-to-image for that."),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(metavar="S", help="How much of that picture is drawn anew, above 0 and at most 1; 0.8 when left out."),
    ] = None,
    seed: SeedOption = 0,
    scheduler: SchedulerOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH", help="Size in pixels, of a model or of a bundle converted with --size; its own when left out."
        ),
    ] = None,
    lora: LoraOption = None,
    embedding: EmbeddingOption = None,
    allow_pickle: AllowPickleOption = False,
    device: DeviceOption = "auto",
    release_chunks: ReleaseOption = False,
) -> None:
    """Draw a picture."""
    if out.suffix.lower() != ".png":
        raise s2p_mobile.S2PError(f"{out} is no .png file", "pictures are written as PNG", "out")
    if not out.parent.is_dir():
        raise s2p_mobile.S2PError(f"folder {out.parent} does not exist", "make it first or choose another `out`", "out")
    if strength is not None and image is None:
        raise s2p_mobile.S2PError("`strength` is about a picture to start from", "give `image` with it", "strength")
    begin = {} if strength is None else {"strength": strength}
    picture = s2p_mobile.generate(
        source, prompt, negative_prompt=negative_prompt, image=image, **begin, seed=seed, size=size, lora=lora or (),
        embedding=embedding or (), allow_pickle=allow_pickle, scheduler=scheduler, steps=steps, guidance=guidance, device=device,
        release_chunks=release_chunks, progress=True,
    )  # fmt: skip

    import numpy as np

    from s2p_runtime.pictures import save_picture

    save_picture(out, np.asarray(picture))
    say(f"picture: {out}")
