"""Declared stages of every method against those that really run: titles, parts, and each layer's samples and passes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from s2p_converters.core.graph import layer_specs
from s2p_converters.core.plan import plan_for
from s2p_mobile.quantize.checkpointing import checkpoint_stages, write_checkpoint
from s2p_mobile.quantize.forecast import make_forecast
from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.latents import LatentJob, write_latents
from s2p_mobile.quantize.methods import METHODS, Method, recipe_for, run_method
from s2p_mobile.quantize.recipes import Recipe
from s2p_mobile.quantize.sensitivity import ESTIMATORS, measure
from s2p_mobile.quantize.stages import Passes, Piece, Stage
from s2p_mobile.quantize.stages.counting import is_inside
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.trajectory import draw_latents, encode_prompt, float_unet
from s2p_runtime.plan import SamplingPlan

BUILT_IN = ("s2p", "adaround", "gptq", "rtn", "q-diffusion", "pcr", "ptq4dm", "palettize", "int4-blocks", "grouped-palettes")
PROMPTS = ("a cat on a red background", "a fox on a blue background", "a dog on a green background")
RECIPE: dict[str, Any] = {
    "name": "small",
    "description": "for tests",
    "weights": {"bits": 4},
    "mixed": {"average_bits": 5, "candidates": [4, 8], "ranking": "fisher"},
    "calibration": {"prompts": 2},
    "training": {
        "prompts": 11,
        "iterations": 2,
        "batch": 3,
        "start": {"rounding": "gptq", "calls": 9, "samples": 12, "iterations": 2},
    },
    "baselines": {"factor": 20_000, "samples": 11, "palettes": {"candidates": [4, 8], "samples": 2}},
}
FEWER: dict[str, Any] = {
    "keep": ["conv_*", "down_blocks.*", "up_blocks.0.*", "up_blocks.1.*"],
    "calibration": {"prompts": 1},
    "training": {"prompts": 3, "iterations": 1, "start": {"rounding": "gptq", "calls": 3, "samples": 4, "iterations": 1}},
    "baselines": {"factor": 80_000, "samples": 3},
}
"""For the demo model, 40 times as large as the tiny one, which runs the recipe's own counts."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def job_of(
    model: Model, plan: SamplingPlan, counter: Any, changes: dict[str, Any] | None = None, guidance: float = 4.0
) -> QuantizationJob:
    document = dict(RECIPE)
    for key, value in (changes or {}).items():
        document[key] = RECIPE[key] | value if isinstance(value, dict) and key in RECIPE else value
    return QuantizationJob(model, plan, Recipe.model_validate(document), PROMPTS, guidance, progress=counter, device="cpu")


def check(counter: Any, stages: Sequence[Stage], job: QuantizationJob) -> None:
    """Demand that what ran is what was declared; exactly, since partial networks are declared unit by unit."""
    assert list(counter.stages) == [stage.name for stage in stages]
    quantized = [layer.name for layer in job.layers]
    assert not counter.layers.get(""), "no network runs between two stages"
    for stage in stages:
        assert counter.stages[stage.name] == [stage.parts, stage.parts]
        for layer in layer_specs(job.structure):
            runs = [passes for passes in stage.passes if passes.part is None or is_inside(layer.name, passes.part)]
            seen = counter.layers[stage.name]
            # FP runs of the model itself have whole shortcuts; golden runs are of both networks.
            whole = layer.name.rsplit(".", 1)[0] if ".conv_shortcut." in layer.name else layer.name
            names = {layer.name, whole} & seen.keys()
            assert sum(seen[name].samples for name in names) == sum(passes.samples for passes in runs), (stage.name, layer.name)
            assert sum(seen[name].passes for name in names) == sum(passes.count for passes in runs), (stage.name, layer.name)
            found = seen[layer.name if layer.name in seen else whole]
            if layer.name in quantized:  # the others get no gradient where none of their parameters is learned
                assert found.backward_samples == sum(passes.samples for passes in runs if passes.backward), (
                    stage.name,
                    layer.name,
                )
                assert found.backward_passes == sum(passes.count for passes in runs if passes.backward), (
                    stage.name,
                    layer.name,
                )


def run_and_check(counter: Any, method: str, job: QuantizationJob, folder: Path) -> None:
    job = replace(job, recipe=recipe_for(method, job.recipe))
    stages = [*METHODS.get(method).stages(job), *checkpoint_stages(job)]
    counter.layers.clear()  # counting runs networks without numbers
    unet = run_method(method, job)
    write_checkpoint(job, method, unet, folder)
    check(counter, stages, job)


def test_all_built_in_methods_are_here() -> None:
    assert sorted(METHODS.names) == sorted(BUILT_IN)


@pytest.mark.parametrize("method", BUILT_IN)
def test_stages_on_the_demo_model(method: str, counter: Any, tmp_path: Path) -> None:
    model = open_model(None)
    plan = plan_for(model.folder / "scheduler", None, 2)
    run_and_check(counter, method, job_of(model, plan, counter, FEWER), tmp_path)


@pytest.mark.parametrize("estimator", ESTIMATORS.names)
def test_stages_of_estimators(estimator: str, tiny_model: Model, tiny_plan: SamplingPlan, counter: Any, tmp_path: Path) -> None:
    job = job_of(tiny_model, tiny_plan, counter, {"mixed": {"ranking": estimator}})
    run_and_check(counter, "rtn", job, tmp_path)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("s2p", {"training": {"start": {"rounding": "adaround", "samples": 40, "iterations": 1}}}),
        ("s2p", {"training": {"start": {"rounding": "nearest"}, "loss": {"calls": "uniform"}, "accumulate": 2}}),
        ("s2p", {"training": {"pipeline": "serial", "start": {"rounding": "nearest"}}}),
        ("s2p", {"training": {"pipeline": "serial", "start": {"rounding": "nearest"}, "distillation": {"weight": 0}}}),
        ("s2p", {"training": {"pipeline": "parallel", "start": {"rounding": "nearest"}}}),
        ("s2p", {"training": {"store_features": True, "start": {"rounding": "nearest"}}}),
        ("s2p", {"activations": {"bits": None}, "split_shortcuts": False}),
        ("adaround", {"keep": ["conv_*", "down_blocks.1.*", "mid_block.*"]}),
        ("rtn", {"mixed": None, "activations": {"bits": None}}),
        ("rtn", {"activations": {"float_share": 0.2}}),
        ("gptq", {"mixed": {"calls": "influence"}, "activations": {"float_share": 0.2}}),
        ("q-diffusion", {"baselines": {"operators": "own", "samples": 40}}),
        ("pcr", {"activations": {"bits": None}}),
        ("ptq4dm", {"baselines": {"operators": "own"}}),
        ("ptq4dm", {"baselines": {"reconstruction": True}}),
    ],
)
def test_stages_follow_the_recipe(
    method: str, changes: dict[str, Any], tiny_model: Model, tiny_plan: SamplingPlan, counter: Any, tmp_path: Path
) -> None:
    run_and_check(counter, method, job_of(tiny_model, tiny_plan, counter, changes), tmp_path)


@pytest.mark.parametrize("method", ["s2p", "pcr", "palettize"])
def test_stages_without_guidance_and_with_what_was_measured_before(
    method: str, tiny_model: Model, tiny_plan: SamplingPlan, counter: Any, tmp_path: Path
) -> None:
    job = job_of(tiny_model, tiny_plan, counter, guidance=1.0)
    write_latents(LatentJob(job.model, job.plan, job.prompts, job.guidance, job.seed), tmp_path / "latents")
    measured = measure(
        job.model, job.plan, PROMPTS, job.guidance, "fisher", bits=(4, 8), count=1,
        split_shortcuts=METHODS.get(method).splits_shortcuts,
    )  # fmt: skip
    (tmp_path / "checkpoint").mkdir()
    run_and_check(counter, method, replace(job, latents=tmp_path / "latents", sensitivity=measured), tmp_path / "checkpoint")


class Toy(Method):
    """A method as a plug-in might have it: it says what it must, and nothing else."""

    name = "toy"
    title = "keeps every layer in float"

    def run(self, job: QuantizationJob) -> QuantizedUNet:
        """Draws as many pictures as there are golden runs of both networks, and quantizes nothing."""
        unet = float_unet(job.model, job.plan, job.structure)
        with job.progress.stage("playing", 4) as advance:
            for seed in range(4):
                draw_latents(
                    unet, job.plan, encode_prompt(job.model, "a cat", seed, job.guidance), job.guidance, job.latent_shape
                )
                advance()
        return QuantizedUNet({}, split_shortcuts=job.recipe.split_shortcuts)

    def stages(self, job: QuantizationJob) -> Sequence[Stage]:
        """What it does, and a thousand things that it does not."""
        calls = 4 * len(job.plan.calls)
        slow = Piece("sums", 1, 1000.0, 1.0, lambda device: lambda: torch.ones(1000, device=device).cumsum(0))
        return [Stage("playing", 4, (Passes(calls * job.branches, calls),), (slow,))]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy, installed as a plug-in."""
    module = ModuleType("toy_plugin")
    module.TOY = Toy()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_plugin", module)
    point = EntryPoint("toy", "toy_plugin:TOY", METHODS.group)
    monkeypatch.setitem(METHODS.__dict__, "_plugins", {"toy": point})
    monkeypatch.setattr(METHODS, "_loaded", dict(METHODS._loaded))


@pytest.mark.usefixtures("toy")
def test_a_plug_in_is_foreseen_like_any_other(tiny_model: Model, tiny_plan: SamplingPlan, counter: Any, tmp_path: Path) -> None:
    job = job_of(tiny_model, tiny_plan, counter, {"mixed": None})
    run_and_check(counter, "toy", job, tmp_path)
    forecast = make_forecast(job, "toy")
    playing, _, golden = forecast.stages
    assert playing.samples == 2 * playing.passes == 8 * len(tiny_plan.calls)
    assert playing.flops == playing.samples * forecast.unet_flops
    assert playing.seconds > golden.seconds > 0, "as many passes, and more"
    assert forecast.memory_bytes > sum(forecast.memory_parts.values()) // 2 and forecast.disk == {}
    assert forecast.devices[0].hours == pytest.approx(sum(stage.seconds for stage in forecast.stages) / 3600)


def test_only_methods_that_keep_their_work_go_on(make_refusal: Callable[[str], str]) -> None:
    for name, method in METHODS.entries.items():
        assert method.keeps_work == (name in ("s2p", "adaround", "gptq"))
        if not method.keeps_work:
            assert make_refusal(name) == f"method {name} keeps nothing that a run could go on with; leave `resume` out"


@pytest.fixture
def make_refusal(tiny_model: Model, tiny_plan: SamplingPlan, counter: Any) -> Callable[[str], str]:
    def refuse(name: str) -> str:
        from s2p_runtime.errors import S2PError

        with pytest.raises(S2PError) as caught:
            run_method(name, replace(job_of(tiny_model, tiny_plan, counter), resume=True))
        return str(caught.value)

    return refuse
