"""A model small enough to train in a test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from s2p_mobile.cli.app import run
from s2p_mobile.demo import DEMO_MODEL
from s2p_mobile.models import Model
from s2p_mobile.plan.registry import plan_for
from s2p_runtime.plan import SamplingPlan


def make_tiny_model(folder: Path, seed: int = 0) -> Model:
    """The demo model with a random U-Net of 8x8 latents and about 100,000 weights."""
    shutil.copytree(DEMO_MODEL, folder, ignore=lambda path, names: {"clip", "unet", "MODEL_CARD.md"} & set(names))
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    unet.save_pretrained(folder / "unet")
    return Model(folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same shape, other weights."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture(scope="session")
def tiny_plan(tiny_model: Model) -> SamplingPlan:
    """DDIM, five calls."""
    return plan_for(tiny_model.folder / "scheduler", "ddim", 5)


@pytest.fixture()
def fails(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command in an empty folder, demand exit status 2, one line and nothing new in the folder; gives the line."""
    monkeypatch.chdir(tmp_path)

    def demand(*arguments: str | Path, status: int = 2) -> str:
        before = sorted(path for path in tmp_path.rglob("*"))
        capfd.readouterr()
        assert run([str(argument) for argument in arguments]) == status
        captured = capfd.readouterr()
        lines = captured.err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), captured.err
        assert "; " in lines[0], "what is wrong; what to do"
        assert captured.out == ""
        assert sorted(path for path in tmp_path.rglob("*")) == before
        return lines[0]

    return demand
