"""``python -m demo_training --out DIR``: make the demo model from the font, or go on where it stopped."""

from __future__ import annotations

import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from demo_training.config import TrainConfig
from demo_training.data import find_font, noto_renderer
from demo_training.stages import Training
from demo_training.state import Clock
from s2p_mobile.cli.app import as_options
from s2p_runtime.errors import S2PError

_LINE_SECONDS = 10.0


class StageName(StrEnum):
    """A stage of the training; each runs what it needs of the earlier ones."""

    data = "data"
    tokenizer = "tokenizer"
    vae = "vae"
    unet = "unet"
    clip = "clip"
    all = "all"


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise S2PError(f"device {name!r} cannot be used here", "choose `device=cpu` or auto", "device") from error
    return device


class _Lines:
    """A plain progress line every few seconds: phase, step, loss, rate and time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._phase = ""
        self._from = (0, 0.0)
        self._last = 0.0

    def __call__(self, phase: str, done: int, steps: int, loss: float) -> None:
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._from, self._last = phase, (done, now), now
            self._console.print(f"{phase}: step {done} of {steps}")
        elif now - self._last >= _LINE_SECONDS or done == steps:
            self._last = now
            rate = (done - self._from[0]) / max(now - self._from[1], 1e-9)
            left = (steps - done) / max(rate, 1e-9) / 60.0
            self._console.print(f"{phase}: step {done} of {steps}  loss {loss:.4f}  {rate:.1f} steps/s  {left:.1f} min left")


def train(
    out: Annotated[Path, typer.Option(help="Folder of the training; the same folder goes on where it stopped.")],
    stage: Annotated[StageName, typer.Option(help="Last stage to run.")] = StageName.all,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    scale: Annotated[float, typer.Option(min=1e-6, help="Multiplies every number of steps of the recipe.")] = 1.0,
    minutes: Annotated[float | None, typer.Option(min=0.0, help="Stop after so long, saved; run again to go on.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Settles every random choice.")] = 0,
    font: Annotated[Path | None, typer.Option(help="NotoColorEmoji.ttf; searched in the usual places if not given.")] = None,
) -> None:
    """Make the demo model: sprites, tokenizer, autoencoder, text encoder and U-Net, judge."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        clock = Clock(minutes=minutes, on_step=_Lines(console))
        config = replace(TrainConfig().scaled(scale), seed=seed)
        training = Training(out, config, lambda: noto_renderer(find_font(font)), _device(device), clock)
        getattr(training, stage.value)()
    except S2PError as error:
        console.print(f"error: {as_options(str(error))}", markup=False)
        raise typer.Exit(error.exit_status) from None
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on from the last saved state")
        raise typer.Exit(3) from None
    if stage is StageName.all:
        print(out / "model")


if __name__ == "__main__":
    typer.run(train)
