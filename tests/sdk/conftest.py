"""A model small enough to train in a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from s2p_converters.core.plan.schedulers import plan_for
from s2p_mobile.cli.app import run
from s2p_mobile.sources.model import Model
from s2p_runtime.plan import SamplingPlan


@pytest.fixture(scope="session")
def tiny_model(make_small_model: Callable[..., Model]) -> Model:
    return make_small_model("tiny", (16, 16), 0, one_transformer=True)


@pytest.fixture(scope="session")
def other_tiny_model(make_small_model: Callable[..., Model]) -> Model:
    """The same shape, other weights."""
    return make_small_model("other", (16, 16), 1, one_transformer=True)


@pytest.fixture(scope="session")
def tiny_plan(tiny_model: Model) -> SamplingPlan:
    """DDIM, five calls."""
    return plan_for(tiny_model.folder / "scheduler", "ddim", 5)


@pytest.fixture(scope="session")
def float_inputs_checkpoint(tiny_model: Model, tiny_plan: SamplingPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """W4A8 with a fifth of the operations on float inputs."""
    from s2p_mobile.quantize.checkpointing import write_checkpoint
    from s2p_mobile.quantize.methods import QuantizationJob, run_method
    from s2p_mobile.quantize.recipes import Recipe

    recipe = Recipe.model_validate(
        {
            "name": "mixed activations",
            "description": "for tests",
            "weights": {"bits": 4},
            "activations": {"float_share": "20%"},
            "calibration": {"prompts": 1},
        }
    )
    job = QuantizationJob(tiny_model, tiny_plan, recipe, ("a cat on a red background",), 4.0, seed=2, device="cpu")
    made = tmp_path_factory.mktemp("floats") / "checkpoint"
    made.mkdir()
    write_checkpoint(job, "rtn", run_method("rtn", job), made)
    return made


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
