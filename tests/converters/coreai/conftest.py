"""Core AI's tests need Apple's packages, which not every machine has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.coreai.options import CoreAIOptions

WriteUNet = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def apples_packages() -> None:
    pytest.importorskip("coreai_torch", reason="Apple's coreai-torch is not installed")


@pytest.fixture(scope="session")
def write_unet(tmp_path_factory: pytest.TempPathFactory) -> WriteUNet:
    """``write_unet(checkpoint, precision="fp32", weights="palette")``: the U-Net's program, written once for equal options unless it
    shall be ``anew``."""
    written: list[tuple[Checkpoint, dict[str, str], Path]] = []

    def write(checkpoint: Checkpoint, anew: bool = False, **options: str) -> Path:
        for known, asked, path in written:
            if known is checkpoint and asked == options and not anew:
                return path
        from s2p_converters.targets.coreai.builder import repeatable_names
        from s2p_converters.targets.coreai.unet import write_unet
        from s2p_converters.targets.ports import own_latents

        path = tmp_path_factory.mktemp("programs") / "unet.aimodel"
        with repeatable_names():
            write_unet(checkpoint, CoreAIOptions(**options), path, {"main": own_latents(checkpoint)})
        written.append((checkpoint, options, path))
        return path

    return write
