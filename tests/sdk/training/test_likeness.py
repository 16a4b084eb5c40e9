"""What a fine-tune takes over from the checkpoint of the model that it came from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from s2p_converters.core.checkpoint import Checkpoint, QuantizedLayer, open_checkpoint
from s2p_converters.core.graph import split_shortcuts
from s2p_mobile.quantize.checkpointing import write_checkpoint
from s2p_mobile.quantize.grid import weight_scale
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.latents import LatentDataset
from s2p_mobile.quantize.methods import METHODS, run_method
from s2p_mobile.quantize.preparation.likeness import likeness_of
from s2p_mobile.quantize.rounding.learned import WEIGHTS_STAGE
from s2p_mobile.sources.model import Model
from s2p_runtime.errors import S2PError

MakeJob = Callable[..., QuantizationJob]
START = {"start": {"rounding": "adaround", "iterations": 30, "samples": 16}, "loss": {"calls": "uniform"}}


class Titles:
    """Remembers the stages that were announced."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @contextmanager
    def stage(self, title: str, total: int) -> Any:
        self.seen.append(title)
        yield lambda detail="": None


@pytest.fixture(scope="module")
def finished(make_job: MakeJob, latents: LatentDataset, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A checkpoint of the tiny model by AdaRound."""
    job = make_job(START, latents=latents.folder)
    folder = tmp_path_factory.mktemp("finished")
    write_checkpoint(job, "adaround", run_method("adaround", job), folder)
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def fine_tune(tiny_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The tiny model with every weight of the U-Net moved by one percent of its size."""
    folder = Path(shutil.copytree(tiny_model.folder, tmp_path_factory.mktemp("tuned") / "tuned"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.manual_seed(5)
    save_file({name: value * (1 + 0.01 * torch.randn_like(value)) for name, value in load_file(file).items()}, file)
    return Model(folder)


def test_bits_zero_points_and_rounding_are_taken_over(
    make_job: MakeJob, finished: Checkpoint, fine_tune: Model, tmp_path: Path
) -> None:
    titles = Titles()
    job = replace(make_job(START), model=fine_tune, progress=titles)
    job = replace(job, like=likeness_of(job, finished))
    unet = run_method("adaround", job)
    assert titles.seen == [stage.name for stage in METHODS.get("adaround").stages(job)]
    assert WEIGHTS_STAGE not in titles.seen and not any("rank" in title for title in titles.seen)
    source = split_shortcuts(fine_tune.unet.state_dict(), job.structure)
    same = others = 0
    for name, layer in unet.layers.items():
        theirs = finished.layers[name]
        assert isinstance(theirs, QuantizedLayer)
        assert (layer.weight_bits, layer.activation_zero) == (theirs.weight_bits, theirs.activation_zero)
        weight = source[f"{name}.weight"]
        scale = weight_scale(weight, layer.weight_bits, job.recipe.weights.search)
        np.testing.assert_array_equal(layer.scale, scale.numpy().astype(np.float16))
        low, high = -(2 ** (layer.weight_bits - 1)), 2 ** (layer.weight_bits - 1) - 1
        steps = (weight / scale.reshape(-1, *[1] * (weight.dim() - 1))).numpy()
        inside = (steps > low) & (steps < high)
        assert (np.abs(layer.integers - steps)[inside] <= 1).all()
        nearest = np.clip(np.round(steps), low, high)
        moved = theirs.integers != nearest
        same += int((layer.integers == theirs.integers)[moved & inside].sum())
        others += int((layer.integers != theirs.integers)[moved & inside].sum())
    # Where AdaRound left the nearest integer of the first model, the fine-tune nearly always goes the same way.
    assert same > 100 and others < 0.1 * same


def test_another_architecture_or_kind_is_refused(make_job: MakeJob, finished: Checkpoint, tmp_path: Path) -> None:
    kept = make_job(START, {"keep": ("conv_*", "mid_block.*")})
    with pytest.raises(S2PError, match=r"does not fit this model and recipe: layer mid_block\S+ differs"):
        likeness_of(kept, finished)
    with pytest.raises(S2PError):
        likeness_of(make_job(START), tmp_path / "nothing")


def test_runs_with_and_without_are_not_mixed_up(make_job: MakeJob, finished: Checkpoint) -> None:
    from s2p_mobile.quantize.work import fingerprint, start_fingerprint

    plain = make_job(START)
    like = replace(plain, like=likeness_of(plain, finished))
    assert fingerprint(plain) != fingerprint(like) and start_fingerprint(plain) != start_fingerprint(like)
