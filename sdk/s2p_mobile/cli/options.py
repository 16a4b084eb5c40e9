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
