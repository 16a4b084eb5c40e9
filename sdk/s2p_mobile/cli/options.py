"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JsonOption = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON to FILE, or to stdout with -.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
SeedOption = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the noise.")]
OutFolder = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Output folder.")]
SizeOption = Annotated[
    str | None, typer.Option("--size", metavar="WxH", help="Width and height of the pictures, e.g. 512x768; the model's own.")
]
LoraOption = Annotated[
    list[str] | None, typer.Option("--lora", metavar="FILE[:SCALE]", help="LoRA to fuse into the weights; may be repeated.")
]
ReleaseOption = Annotated[
    bool,
    typer.Option(
        "--release-chunks", help="Of a bundle converted with --chunks: load each program for every call and let go of it."
    ),
]
PromptsOption = Annotated[
    Path | None,
    typer.Option("--prompts", metavar="FILE", help="Prompts: one a line, COCO captions .json, .csv, .parquet; built-in ones."),
]
CountOption = Annotated[int | None, typer.Option("--count", min=1, help="Only so many of the prompts; the first ones.")]
SubsetSeedOption = Annotated[
    int | None, typer.Option("--subset-seed", min=0, help="Pick the --count prompts at random with this seed.")
]
