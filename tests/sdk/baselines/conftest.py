"""A tiny job with other methods' rules, and checkpoints of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from s2p_converters.core.checkpoint import Checkpoint, open_checkpoint
from s2p_mobile.quantize.checkpointing import write_checkpoint
from s2p_mobile.quantize.methods import QuantizationJob, run_method
from s2p_mobile.quantize.recipes import Recipe
from s2p_mobile.sources.model import Model
from s2p_runtime.plan import SamplingPlan

PROMPTS = ("a cat on a red background", "a fox on a blue background")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def baseline_job(tiny_model: Model, tiny_plan: SamplingPlan) -> Callable[..., QuantizationJob]:
    """``baseline_job(baselines={...}, **recipe fields)``: W4A8, ten iterations of AdaRound."""

    def make(baselines: dict[str, Any] | None = None, **recipe: Any) -> QuantizationJob:
        document = {
            "name": "tiny",
            "description": "for tests",
            "weights": {"bits": 4},
            "calibration": {"prompts": 1},
            "baselines": {"factor": 2000, "samples": 12, **(baselines or {})},
            **recipe,
        }
        return QuantizationJob(tiny_model, tiny_plan, Recipe.model_validate(document), PROMPTS, 4.0, seed=2, device="cpu")

    return make


@pytest.fixture(scope="session")
def baseline_checkpoint(
    baseline_job: Callable[..., QuantizationJob], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Checkpoint]:
    """``baseline_checkpoint(method, operators)``; made once."""
    made: dict[tuple[str, str], Checkpoint] = {}

    def make(method: str, operators: str = "same") -> Checkpoint:
        key = (method, operators)
        if key not in made:
            job = baseline_job({"operators": operators})
            folder = tmp_path_factory.mktemp("baselines") / "checkpoint"
            folder.mkdir()
            write_checkpoint(job, method, run_method(method, job), folder)
            made[key] = open_checkpoint(folder)
        return made[key]

    return make
