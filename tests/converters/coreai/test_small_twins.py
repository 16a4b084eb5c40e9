"""Networks that are too large to be run here are written for small latents too and checked there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets import float_components
from s2p_converters.targets.coreai import small_twin
from s2p_converters.targets.coreai.options import CoreAIOptions
from s2p_converters.targets.coreai.target import TARGET
from s2p_converters.targets.float_components import decoder_component
from s2p_converters.targets.float_modules import vae_work
from s2p_runtime.errors import CheckFailed


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything counts as large; titles of what was run as a twin."""
    run: list[str] = []
    once = small_twin._run_once

    def noted(title: str, *arguments: Any) -> Any:
        run.append(title)
        return once(title, *arguments)

    monkeypatch.setattr(small_twin, "LARGEST_WORK", 0)
    monkeypatch.setattr(small_twin, "_run_once", noted)
    return run


def test_unet_and_vae_are_checked_by_twins(
    checkpoint: Checkpoint, all_large: list[str], convert: Callable[..., Path], tmp_path: Path
) -> None:
    convert(checkpoint, CoreAIOptions(image_to_image=True), tmp_path / "bundle", kept=False)
    assert sorted(all_large) == ["U-Net", "VAE decoder", "VAE encoder"]


def test_another_vae_is_found(
    checkpoint: Checkpoint, all_large: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = float_components.decoder_module

    class Brighter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = made(checkpoint)

        def forward(self, latents: Any) -> Any:
            return self.network(latents) * 1.1

    # The process that converts has the network as it is.
    monkeypatch.setattr(float_components, "decoder_module", lambda _: Brighter())
    part = decoder_component(checkpoint, (8, 8))
    with pytest.raises(CheckFailed, match="the emitted VAE decoder differs from its reference"):
        TARGET.lower(checkpoint, CoreAIOptions(), tmp_path, {"main": part})
    assert all_large == ["VAE decoder"]


def test_work_of_a_vae_is_what_torch_counts(checkpoint: Checkpoint) -> None:
    part = decoder_component(checkpoint, (8, 8))
    with FlopCounterMode(display=False) as counter:
        part.call(part.load(), part.check_inputs())
    # torch counts two operations for a multiplication, and what is beside the residual blocks: upsampling, the middle, both ends.
    counted = counter.get_total_flops() / 2
    assert 0.4 * counted < vae_work(checkpoint, (8, 8)) < counted
