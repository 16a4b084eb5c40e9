"""Converted U-Nets, each made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.coreml.components import convert_unet
from s2p_converters.targets.coreml.options import CoreMLOptions


@pytest.fixture(scope="session")
def converted(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``converted(minimum_os="iOS18", ...)`` -> the U-Net's .mlpackage under these options."""
    made: dict[CoreMLOptions, Path] = {}

    def convert(**settings: str) -> Path:
        options = CoreMLOptions(**settings)  # type: ignore[arg-type]
        if options not in made:
            folder = tmp_path_factory.mktemp("packages")
            made[options] = folder / convert_unet(checkpoint, options, folder).components["unet"].path
        return made[options]

    return convert
