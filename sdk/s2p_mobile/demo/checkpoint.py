"""The demo model's shipped checkpoint: what differs from the demo model is packaged, the rest is joined when it is opened."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from s2p_mobile.demo import DEMO_MODEL

PACKAGED = Path(__file__).parent / "w4a8-mixed"
_COMPONENTS = ("text_encoder", "vae", "tokenizer", "scheduler")
"""What the checkpoint shares with the model."""


@contextlib.contextmanager
def checkpoint_folder(given: Path | None) -> Iterator[Path]:
    """The given checkpoint folder, or a temporary whole folder of the demo model's shipped checkpoint."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="s2p-mobile-") as scratch:
        folder = Path(scratch) / "demo"
        shutil.copytree(PACKAGED, folder, copy_function=shutil.copyfile)
        for name in _COMPONENTS:
            shutil.copytree(DEMO_MODEL / name, folder / name, copy_function=shutil.copyfile)
        yield folder


def package_checkpoint(folder: Path, destination: Path = PACKAGED) -> None:
    """Keep a whole checkpoint of the demo model as the shipped one, without the model's own components."""
    shutil.rmtree(destination, ignore_errors=True)
    shutil.copytree(folder, destination, ignore=lambda at, names: set(_COMPONENTS) if Path(at) == folder else set())
