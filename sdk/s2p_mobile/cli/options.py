"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2p_mobile.demo import names_demo


def path_or_demo(word: str | None) -> str | None:
    """``demo`` is the built-in model, which the library calls None, unless such a file or folder is here."""
    return None if word is None or names_demo(word) else word


ModelArgument = Annotated[
    str | None,
    typer.Argument(
        help="Diffusers folder, single file or downloaded hub id; the demo model when left out.", callback=path_or_demo
    ),
]
SourceArgument = Annotated[
    str,
    typer.Argument(help="Model folder or file, downloaded hub id, checkpoint, bundle, or demo.", callback=path_or_demo),
]
"""None at run time where it is the built-in model."""
JsonOption = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON to FILE, or to stdout with -.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
SeedOption = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the noise.")]
OutFolder = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Output folder.")]
SchedulerOption = Annotated[str | None, typer.Option(help="Sampler of a model, see s2p-mobile models; its own when left out.")]
StepsOption = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Denoising steps of a model; its own number when left out.")
]
GuidanceOption = Annotated[float | None, typer.Option(min=0, max=100, help="Guidance of a model; its own when left out.")]
SizeOption = Annotated[
    str | None, typer.Option("--size", metavar="WxH", help="Width and height of the pictures, e.g. 512x768; the model's own.")
]
LoraOption = Annotated[
    list[str] | None, typer.Option("--lora", metavar="FILE[:SCALE]", help="LoRA to fuse into the weights; may be repeated.")
]
EmbeddingOption = Annotated[
    list[str] | None,
    typer.Option("--embedding", metavar="FILE[:WORD]", help="Textual inversion that the model is to know; may be repeated."),
]
AllowPickleOption = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Read .ckpt, .pt and .bin models too: by torch's reader that builds weights only."),
]
DeviceOption = Annotated[str, typer.Option(metavar="NAME", help="Where torch runs: auto, cpu, cuda, cuda:1 or mps.")]
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
