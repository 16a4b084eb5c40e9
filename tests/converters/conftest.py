"""A model small enough to convert in a test, checkpoints of it, and a bundle for each target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from s2p_converters.core.checkpoint import Checkpoint, open_checkpoint
from s2p_converters.core.plan import plan_for
from s2p_mobile.quantize.checkpointing import write_checkpoint
from s2p_mobile.quantize.methods import QuantizationJob, run_method
from s2p_mobile.quantize.recipes import Recipe
from s2p_mobile.sources.model import Model

MakeCheckpoint = Callable[..., Checkpoint]


@pytest.fixture(scope="session")
def small_model(make_small_model: Callable[..., Model]) -> Model:
    """Converters take seconds for every hundred operators, and these tests convert some hundred times: one transformer."""
    return make_small_model("small", (16, 24), 3, one_transformer=True)


@pytest.fixture(scope="session")
def checkpoints_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Model], MakeCheckpoint]:
    """``checkpoints_of(model)(weight_bits=4, activation_bits=8, mixed=True, split=True)``: an RTN checkpoint, made once."""
    return lambda model: _checkpoints(model, tmp_path_factory)


@pytest.fixture(scope="session")
def make_checkpoint(small_model: Model, checkpoints_of: Callable[[Model], MakeCheckpoint]) -> MakeCheckpoint:
    """RTN checkpoints of the small model."""
    return checkpoints_of(small_model)


def _checkpoints(model: Model, tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    made: dict[tuple[int, int | None, bool, bool], Checkpoint] = {}

    def make(weight_bits: int = 4, activation_bits: int | None = 8, mixed: bool = True, split: bool = True) -> Checkpoint:
        key = (weight_bits, activation_bits, mixed, split)
        if key not in made:
            rules = {
                "name": "test",
                "description": "of a test",
                "weights": {"bits": weight_bits},
                "activations": {"bits": activation_bits},
                "calibration": {"prompts": 1},
                "split_shortcuts": split,
                "mixed": {"top": "10%", "bits": 8, "ranking": "sqnr"} if mixed else None,
            }
            plan = plan_for(model.folder / "scheduler", "ddim", 3)
            job = QuantizationJob(model, plan, Recipe.model_validate(rules), ("a red apple on a blue background",), 4.0)
            folder = tmp_path_factory.mktemp("checkpoints")
            write_checkpoint(job, "rtn", run_method("rtn", job), folder)
            made[key] = open_checkpoint(folder)
        return made[key]

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: MakeCheckpoint) -> Checkpoint:
    """W4A8, a tenth of the layers at 8 bits."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def executorch_bundle(checkpoint: Checkpoint, convert: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the converted W4A8 checkpoint."""
    from s2p_converters.targets.executorch.options import ExecuTorchOptions

    folder = tmp_path_factory.mktemp("bundles") / "small.s2pmobile"
    return convert(checkpoint, ExecuTorchOptions(image_to_image=True), folder)


@pytest.fixture(scope="session")
def coreml_bundle(checkpoint: Checkpoint, convert: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The W4A8 checkpoint as a Core ML bundle in float32, so that nothing but arithmetic parts it from the others."""
    from s2p_converters.targets.coreml.options import CoreMLOptions

    folder = tmp_path_factory.mktemp("bundles") / "small-coreml.s2pmobile"
    return convert(checkpoint, CoreMLOptions(precision="fp32", image_to_image=True), folder)


@pytest.fixture(scope="session")
def coreai_bundle(checkpoint: Checkpoint, convert: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The W4A8 checkpoint as a Core AI bundle in float32; without Apple's packages the test is left out."""
    pytest.importorskip("coreai_torch", reason="Apple's coreai-torch is not installed")
    from s2p_converters.targets.coreai.options import CoreAIOptions

    folder = tmp_path_factory.mktemp("bundles") / "small-coreai.s2pmobile"
    return convert(checkpoint, CoreAIOptions(precision="fp32", image_to_image=True), folder)
