"""A job on the tiny model, its latent set, and one thread so that sums are alike in every process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.latents import LatentDataset, LatentJob, write_latents
from s2p_mobile.quantize.preparation.starting_point import starting_point
from s2p_mobile.quantize.recipes import Recipe
from s2p_mobile.quantize.student import StudentSpec
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.trajectory import float_unet
from s2p_runtime.plan import SamplingPlan

PROMPTS = tuple(f"a {thing} on a {colour} background" for thing in ("cat", "fox") for colour in ("red", "blue"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def recipe_document() -> dict[str, Any]:
    """W3A8 with one layer of 8 bits, a few iterations."""
    return {
        "name": "tiny",
        "description": "for tests",
        "weights": {"bits": 3},
        "mixed": {"top": 0.01, "bits": 8, "ranking": "sqnr"},
        "calibration": {"prompts": 1},
        "training": {
            "prompts": 4,
            "iterations": 6,
            "batch": 4,
            "warmup": 1,
            "freezing": {"every": 2, "start": 0.03, "end": 0.01},
        },
    }


@pytest.fixture(scope="session")
def make_job(tiny_model: Model, tiny_plan: SamplingPlan, recipe_document: dict[str, Any]) -> Callable[..., QuantizationJob]:
    """``make_job(training={...}, recipe={...}, **fields)``: a job with changes to its recipe."""

    def make(training: dict[str, Any] | None = None, recipe: dict[str, Any] | None = None, **fields: Any) -> QuantizationJob:
        document = {**recipe_document, **(recipe or {})}
        document["training"] = {**document["training"], **(training or {})}
        made = Recipe.model_validate(document)
        return QuantizationJob(tiny_model, tiny_plan, made, PROMPTS, guidance=4.0, seed=2, device="cpu", **fields)

    return make


@pytest.fixture(scope="session")
def latents(make_job: Callable[..., QuantizationJob], tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    job = make_job()
    folder = tmp_path_factory.mktemp("latents") / "set"
    return write_latents(LatentJob(job.model, job.plan, job.prompts, job.guidance, job.seed, features=True), folder)


@pytest.fixture(scope="session")
def start(make_job: Callable[..., QuantizationJob]) -> StudentSpec:
    job = make_job()
    point = starting_point(job, float_unet(job.model, job.plan, job.structure))
    assert any(point.activation_zeros.values())
    return StudentSpec(point.weight_bits, point.activation_scales, point.activation_zeros)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
