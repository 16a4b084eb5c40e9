"""The result's file, and measurements on the demo model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from s2p_converters.core.graph import layer_specs
from s2p_converters.core.plan import plan_for
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.jobs import make_job
from s2p_mobile.quantize.methods import recipe_for
from s2p_mobile.quantize.preparation.given_sensitivity import sensitivity_for
from s2p_mobile.quantize.preparation.starting_point import planned_bits
from s2p_mobile.quantize.recipes import CalibrationRule, MixedRule
from s2p_mobile.quantize.sensitivity import collect_samples, measure, read_sensitivity, write_sensitivity
from s2p_mobile.quantize.sensitivity.samples import spread_calls
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.trajectory import encode_prompt, float_unet
from s2p_runtime.errors import S2PError

PROMPTS = ["a red apple on a blue background", "a panda on a yellow background"]
GUIDANCE = 4.0


@pytest.mark.parametrize("calls", [1, 4, 25, 51])
@pytest.mark.parametrize("count", [1, 4, 16, 60])
def test_calls_are_spread_over_the_trajectory(calls: int, count: int) -> None:
    for shift in (0.0, 0.5, 0.99):
        chosen = spread_calls(calls, count, shift)
        assert len(set(chosen)) == len(chosen) == min(calls, count)
        # One call in each of the equal intervals that the trajectory is cut into.
        for k, call in enumerate(chosen):
            assert k * calls / len(chosen) - 1 < call < (k + 1) * calls / len(chosen)


@torch.no_grad()
def test_samples_lie_on_the_fp_trajectory_of_diffusers() -> None:
    model = open_model(None)
    plan = plan_for(model.folder / "scheduler", "ddim", 4)
    unet = float_unet(model, plan)
    prompts = [encode_prompt(model, text, seed, GUIDANCE) for seed, text in enumerate(PROMPTS)]
    samples = collect_samples(unet, plan, prompts, GUIDANCE, (1, 4, 16, 16), 8)
    assert [sample.call for sample in samples] == [0, 1, 2, 3] * 2
    for sample in samples:
        text = PROMPTS[0] if sample is samples[sample.call] else PROMPTS[1]
        states = torch.from_numpy(model.conditioner.embed(model.conditioner.token_ids(["", text]))[0]).split(1)
        timestep = plan.timesteps[sample.call]
        without, given = (model.unet(sample.sample[:1], timestep, state).sample for state in states)
        expected = without + GUIDANCE * (given - without)
        # Two float32 implementations of the same network.
        assert torch.allclose(sample.observe(unet), expected, atol=1e-4 * float(expected.abs().max()))


def test_measuring_repeats_and_survives_its_file(tmp_path: Path) -> None:
    model = open_model(None)
    plan = plan_for(model.folder / "scheduler", "ddim", 3)
    layers = layer_specs(model.structure)[:6]
    found = measure(model, plan, PROMPTS, GUIDANCE, "fisher", layers, bits=(8, 4), count=3)
    assert found == measure(model, plan, PROMPTS, GUIDANCE, "fisher", layers, bits=(4, 8), count=3)
    assert (found.bits, found.prompts, found.samples) == ((4, 8), 2, 4)
    assert [(layer.name, layer.weights) for layer in found.layers] == [(spec.name, spec.weights) for spec in layers]
    assert all(layer.values[0] > layer.values[1] > 0 for layer in found.layers)
    file = tmp_path / "fisher.json"
    write_sensitivity(file, found)
    assert read_sensitivity(file) == found
    with pytest.raises(S2PError, match="exists"):
        write_sensitivity(file, found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "s2p-bundle"}, "s2p-sensitivity"),
        ({"version": 2}, "update"),
        ({"bits": [8, 4]}, "ascending"),
        ({"bits": [4]}, "2 values for 1 widths"),
        ({"bits": ["4", 8]}, "bits"),
        ({"extra": 1}, "extra"),
        ({"layers": []}, "layers"),
        ({"layers": [{"name": "a", "weights": 4, "values": [1.0, 0.5]}] * 2}, "twice"),
        ({"unet_sha256": "x"}, "unet_sha256"),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    document: dict[str, object] = {
        "format": "s2p-sensitivity", "version": 1, "estimator": "fisher", "model": "m", "unet_sha256": "0" * 64,
        "scheduler": "ddim", "steps": 25, "guidance": 4.0, "embedded_guidance": None,
        "prompts": 1, "samples": 1, "seed": 0, "search": "mse",
        "bits": [4, 8], "layers": [{"name": "a", "weights": 4, "values": [1.0, 0.5]}],
    }  # fmt: skip
    file = tmp_path / "s.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    assert read_sensitivity(file).at(8) == {"a": 0.5}
    file.write_text(json.dumps(document | change), encoding="utf-8")
    with pytest.raises(S2PError, match=message) as caught:
        read_sensitivity(file)
    assert "\n" not in str(caught.value)


def test_impossible_measurements_are_refused() -> None:
    model = open_model(None)
    plan = plan_for(model.folder / "scheduler", "ddim", 3)
    with pytest.raises(S2PError, match="at least one prompt"):
        measure(model, plan, [], GUIDANCE, "fisher")
    with pytest.raises(S2PError, match="widths 1, 9 are impossible"):
        measure(model, plan, PROMPTS, GUIDANCE, "fisher", bits=(1, 9))


BUDGET = MixedRule.model_validate({"average_bits": 4.5, "candidates": [4, 8], "ranking": "gradient"})


def job(**changes: object) -> QuantizationJob:
    """A job whose recipe ranks layers by ``gradient``."""
    made = make_job(None, recipe="w4a16", scheduler="ddim", steps=2, device="cpu")
    recipe = made.recipe.model_copy(update={"mixed": BUDGET, "calibration": CalibrationRule(prompts=1)} | changes)
    return replace(made, recipe=recipe)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``s2p-mobile sensitivity`` writes for that job."""
    path = tmp_path_factory.mktemp("sensitivity") / "gradient.json"
    asked = job()
    found = measure(asked.model, asked.plan, asked.prompts[:1], asked.guidance, "gradient", bits=(4, 8))
    write_sensitivity(path, found)
    return path


def test_a_measured_file_gives_the_widths_of_a_measurement(measured: Path) -> None:
    asked = job()
    unet = float_unet(asked.model, asked.plan, asked.structure)
    widths = planned_bits(asked, unet)
    assert set(widths.values()) == {4, 8}
    assert planned_bits(replace(asked, sensitivity=sensitivity_for(asked, measured)), unet) == widths
    # The values decide: with those of two layers of one size exchanged, the layers exchange their widths.
    found = read_sensitivity(measured)
    one, other = next(
        (a, b) for a in found.layers for b in found.layers
        if a.weights == b.weights and widths.get(a.name) == 4 and widths.get(b.name) == 8
    )  # fmt: skip
    swap = {one.name: other.values, other.name: one.values}
    layers = tuple(layer.model_copy(update={"values": swap.get(layer.name, layer.values)}) for layer in found.layers)
    swapped = planned_bits(replace(asked, sensitivity=found.model_copy(update={"layers": layers})), unet)
    assert (swapped[one.name], swapped[other.name]) == (8, 4)


def test_a_file_of_whole_shortcuts_is_for_methods_that_keep_them(tmp_path: Path) -> None:
    asked, path = job(), tmp_path / "whole.json"
    found = measure(asked.model, asked.plan, asked.prompts[:1], asked.guidance, "gradient", bits=(4, 8), split_shortcuts=False)
    write_sensitivity(path, found)
    with pytest.raises(S2PError, match=r"no layer \S+conv_shortcut\.0; .* `split_shortcuts=True`"):
        sensitivity_for(asked, path)
    baselines = replace(asked, recipe=recipe_for("ptq4dm", asked.recipe))
    assert sensitivity_for(baselines, path) == found and recipe_for("s2p", asked.recipe) == asked.recipe
    widths = planned_bits(replace(baselines, sensitivity=found), float_unet(asked.model, asked.plan, baselines.structure))
    assert set(widths) <= {layer.name for layer in found.layers} and set(widths.values()) == {4, 8}


@pytest.mark.parametrize(
    ("altered", "recipe", "message"),
    [
        ({"unet_sha256": "0" * 64}, {}, "another U-Net"),
        ({"steps": 5}, {}, "steps 5, this job has 2"),
        ({"scheduler": "PNDMScheduler"}, {}, "scheduler PNDMScheduler"),
        ({"guidance": 1.5}, {}, "guidance 1.5"),
        ({"embedded_guidance": 3.5}, {}, "embedded guidance 3.5"),
        ({"search": "absmax"}, {}, "search absmax"),
        ({}, {"mixed": BUDGET.model_copy(update={"ranking": "sqnr"})}, "estimator gradient, this job has sqnr"),
        ({}, {"mixed": BUDGET.model_copy(update={"candidates": (2, 4, 8)})}, "no values at 2 bits"),
        ({}, {"mixed": None}, "ranks no layers"),
        ({"layers": 3}, {}, "has no layer"),
    ],
)
def test_a_file_of_something_else_is_refused(
    measured: Path, tmp_path: Path, altered: dict[str, object], recipe: dict[str, object], message: str
) -> None:
    document = json.loads(measured.read_text())
    if "layers" in altered:
        altered = {"layers": document["layers"][:3]}
    path = tmp_path / "altered.json"
    path.write_text(json.dumps(document | altered))
    with pytest.raises(S2PError, match=message) as caught:
        sensitivity_for(job(**recipe), path)
    assert "\n" not in str(caught.value)
