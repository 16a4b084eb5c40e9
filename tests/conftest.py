"""Settings of the whole suite, and the small models of its parts."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from s2p_mobile.sources.model import Model

# Tests run in parallel processes; with more than one thread in each, OpenMP's threads wait for each other in busy loops.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What is kept for the next time, of the commands that tests run too, does not go into the cache of whoever runs them.
_CACHE = tempfile.TemporaryDirectory(prefix="s2p-tests-")
os.environ["S2P_CACHE"] = _CACHE.name


@pytest.fixture(scope="session")
def make_small_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, tuple[int, int], int], Model]:
    """``make_small_model(name, channels, seed)``: the demo model with a random U-Net of 8x8 latents, about 100,000 weights and every
    kind of layer and block."""

    def make(name: str, channels: tuple[int, int], seed: int) -> Model:
        # Imported here: torch counts its threads when it is loaded, and many tests do without it.
        import torch
        from diffusers import UNet2DConditionModel

        from s2p_mobile.demo import DEMO_MODEL
        from s2p_mobile.sources.model import Model

        folder = tmp_path_factory.mktemp("models") / name
        special = {"clip", "unet", "MODEL_CARD.md", "s2p_defaults.json", "prompts", "w4a8-mixed"}
        shutil.copytree(DEMO_MODEL, folder, ignore=lambda _, names: special & set(names))
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=channels,
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=128,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        unet.save_pretrained(folder / "unet")
        return Model(folder)

    return make
