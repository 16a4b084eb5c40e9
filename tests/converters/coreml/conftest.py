"""Converted U-Nets, each made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.coreml.components import convert_unet
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_mobile.sources.model import Model


@pytest.fixture(scope="session")
def small_model(make_small_model: Callable[..., Model]) -> Model:
    """coremltools takes seconds for every hundred operators, and these tests convert some thirty times: one transformer."""
    return make_small_model("smaller", (16, 24), 3, one_transformer=True)


@pytest.fixture(scope="session")
def make_checkpoint(
    small_model: Model, checkpoints_of: Callable[[Model], Callable[..., Checkpoint]]
) -> Callable[..., Checkpoint]:
    """RTN checkpoints of the smaller model."""
    return checkpoints_of(small_model)


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: Callable[..., Checkpoint]) -> Checkpoint:
    """W4A8, a tenth of the layers at 8 bits."""
    return make_checkpoint()


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
