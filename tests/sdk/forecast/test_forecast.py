"""Forecasts of a quantization against what is then measured."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from s2p_converters.core.graph import layer_specs
from s2p_mobile.cli.app import run
from s2p_mobile.quantize.forecast import Forecast, forecast_lines, make_forecast
from s2p_mobile.quantize.forecast.stopwatch import Stopwatch
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.jobs import make_job
from s2p_mobile.quantize.latents import LatentJob, write_latents
from s2p_mobile.quantize.latents.disk import block_shapes, latent_set_bytes, safetensors_bytes
from s2p_mobile.quantize.methods import run_method
from s2p_mobile.quantize.preparation.starting_point import planned_bits
from s2p_mobile.quantize.recipes import CalibrationRule, MixedRule, Recipe, load_recipe
from s2p_mobile.quantize.sensitivity import measure
from s2p_mobile.quantize.stages import count_network
from s2p_mobile.quantize.student import StudentSpec
from s2p_mobile.quantize.student.network import student_shape
from s2p_mobile.quantize.student.student import build_student
from s2p_mobile.quantize.training.memory import saved_bytes
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.trajectory import float_unet

SETTINGS: dict[str, Any] = {"steps": 3, "device": "cpu"}


MIDDLE = ("resnets.0", "attentions.0", "resnets.1")


def small(job: QuantizationJob, **training: Any) -> QuantizationJob:
    """The job with changes to its recipe's training."""
    rule = job.recipe.training.model_copy(update=training)
    return QuantizationJob(
        job.model, job.plan, job.recipe.model_copy(update={"training": rule}), job.prompts, job.guidance, device="cpu"
    )


@pytest.fixture(scope="module")
def plain(tiny_model: Model) -> Forecast:
    """Of a tiny model, trained as the default recipe says."""
    return make_forecast(make_job(tiny_model, **SETTINGS), "s2p")


@pytest.fixture()
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed: for tests of what is counted."""

    def pretend(self: Any, key: Any, pieces: Any) -> None:
        self._times[key] = 1e-10 * pieces[key].size
        self._learn_pace(key[0])

    monkeypatch.setattr(Stopwatch, "_time", pretend)


@pytest.mark.parametrize(
    "shapes",
    [
        {"a": ("F32", (2, 3))},
        {
            "states": ("F32", (8, 25, 4, 16, 16)),
            "token_ids": ("I32", (8, 24)),
            "feature.mid_block": ("F16", (8, 25, 2, 3, 1, 1)),
        },
        {"b": ("I32", (1,)), "a": ("F16", (1,)), "c": ("F32", (1,)), "B": ("F32", (1,))},
    ],
)
def test_sizes_of_safetensors_files_are_exact(shapes: dict[str, Any]) -> None:
    types = {"F32": np.float32, "I32": np.int32, "F16": np.float16}
    assert safetensors_bytes(shapes) == len(save({name: np.zeros(shape, types[t]) for name, (t, shape) in shapes.items()}))


@pytest.mark.parametrize(("guidance", "features"), [(4.0, False), (1.0, False), (4.0, True)])
def test_latents_take_the_foreseen_bytes(guidance: float, features: bool, tmp_path: Path) -> None:
    job = make_job(None, **{**SETTINGS, "steps": 2})
    wanted = LatentJob(job.model, job.plan, job.prompts[:9], guidance, 0, features=features)
    write_latents(wanted, tmp_path / "set")
    shapes = block_shapes(job.model.structure, 2) if features else {}
    foreseen = latent_set_bytes(wanted.request, job.model.conditioner.conditions, shapes)
    assert foreseen == sum(path.stat().st_size for path in (tmp_path / "set").iterdir())


def test_operations_are_those_of_the_layers() -> None:
    """Convolutions and products counted by torch on the real network, against the meta count."""
    from torch.utils.flop_counter import FlopCounterMode

    job = make_job(None, **SETTINGS)
    structure = job.model.structure
    counted = count_network(structure, 24)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        job.model.unet(torch.randn(1, 4, 16, 16), 5, torch.randn(1, 24, 128))
    layers = sum(work.flops for work in counted.layers)
    # torch has no count for the CPU's attention kernel; the time path, which the layers lack, is 0.1%.
    assert layers == pytest.approx(counter.get_total_flops(), rel=2e-3)
    # Scores and values, 2 operations each, for every query and key: of the picture at 8x8 and 4x4, and of the 24 tokens.
    queries = {work.spec.name: work.input_shape for work in counted.layers if work.spec.name.endswith("to_q")}
    attention = sum(4 * n * (n if "attn1" in name else 24) * channels for name, (_, n, channels) in queries.items())
    assert counted.flops == layers + attention
    assert counted.part_flops("mid_block") == sum(counted.part_flops(f"mid_block.{p}") for p in MIDDLE)


def test_saved_tensors_are_those_of_the_student() -> None:
    """Bytes that autograd keeps in a real forward pass."""
    job = make_job(None, **SETTINGS)
    names = [layer.name for layer in job.layers]
    bits = dict.fromkeys(names, 4)
    student = build_student(job, StudentSpec(bits, torch.full((3, len(names)), 0.05)))
    own = {t.untyped_storage().data_ptr() for t in (*student.parameters(), *student.buffers())}
    seen: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = student(torch.randn(4, 4, 16, 16), torch.zeros(4, dtype=torch.int64), torch.randn(4, 24, 128))
    measured = sum(tensor.untyped_storage().nbytes() for tensor in seen.values())
    assert output.requires_grad
    saved = saved_bytes(student_shape(job), 24)
    # What is of the weights' size is not kept; small tensors of the tables are, and sums of attention's kernel.
    assert 4 * saved.activations == pytest.approx(measured, rel=0.05)
    assert 0 < saved.largest < saved.activations and 0 < saved.inputs < saved.activations


@pytest.mark.usefixtures("no_probe")
def test_switches_change_the_memory(plain: Forecast, tiny_model: Model) -> None:
    job = make_job(tiny_model, **SETTINGS)

    def training(forecast: Forecast) -> dict[str, int]:
        (stage,) = (stage for stage in forecast.stages if stage.name == "training")
        # What the process holds already grows with every forecast.
        return {name: size for name, size in stage.memory_parts.items() if name != "process"}

    for change in ({"checkpoint_activations": True}, {"precision": "bf16"}):
        cheaper = training(make_forecast(small(job, **change), "s2p"))
        assert cheaper["activations"] < training(plain)["activations"]
    without = training(make_forecast(small(job, ema=None, freezing=None), "s2p"))
    assert without["optimizer and averages"] < training(plain)["optimizer and averages"]
    assert without["student"] < training(plain)["student"]
    scales = training(make_forecast(small(job, learn="scales"), "s2p"))
    assert sum(scales.values()) < sum(training(plain).values()) and scales["gradients"] < 2**20
    nearest = make_forecast(job, "rtn")
    assert not any(stage.name == "training" for stage in nearest.stages)


@pytest.mark.usefixtures("no_probe")
def test_time_grows_with_the_work(plain: Forecast, tiny_model: Model) -> None:
    job = make_job(tiny_model, **SETTINGS)
    one, two = (make_forecast(small(job, iterations=n), "s2p") for n in (100, 200))
    few, many = (next(stage for stage in forecast.stages if stage.name == "training") for forecast in (one, two))
    assert (many.flops, many.passes, many.parts) == (2 * few.flops, 2 * few.passes, 200)
    assert all(b.hours > a.hours for a, b in zip(one.devices, two.devices, strict=True))
    assert "this machine" in plain.devices[0].name and plain.devices[0].hours > 0
    assert all(device.assumption for device in plain.devices)


@pytest.mark.usefixtures("no_probe")
def test_layers_by_width_add_up(plain: Forecast, tiny_model: Model) -> None:
    job = make_job(tiny_model, **SETTINGS)
    assert sum(plain.layers.values()) == len(layer_specs(job.structure))
    assert plain.bits_note is not None and "linear" in plain.bits_note
    uniform = Recipe.model_validate({**load_recipe("w4a8-mixed").model_dump(mode="json"), "mixed": None})
    flat = make_forecast(QuantizationJob(job.model, job.plan, uniform, job.prompts, job.guidance, device="cpu"), "rtn")
    assert flat.weights is not None and flat.bits_note is None
    assert tiny_model.unet_fp32_bytes == 4 * flat.parameters["unet"]


@pytest.mark.slow
@pytest.mark.usefixtures("no_probe")
def test_ranking_takes_the_counted_samples() -> None:
    job = make_job(None, **SETTINGS)
    # The middle of the network only: the count is a formula in the number of layers.
    rule = MixedRule.model_validate({"average_bits": 5, "ranking": "sqnr"})
    update = {"mixed": rule, "keep": ("conv_*", "down_blocks.*", "up_blocks.*"), "calibration": CalibrationRule(prompts=2)}
    job = replace(job, recipe=job.recipe.model_copy(update=update))
    forecast = make_forecast(job, "s2p")
    unet, seen = float_unet(job.model, job.plan, job.structure), []
    unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[0]))
    planned_bits(job, unet)
    ranking = forecast.stages[
        1:5
    ]  # behind the trajectories to train on: those to rank on, their outputs, roundings, the estimator
    assert sum(stage.flops for stage in ranking) == sum(seen) * forecast.unet_flops
    measured = measure(job.model, job.plan, job.prompts[:2], job.guidance, "sqnr", bits=(4, 8), count=1)
    known = make_forecast(replace(job, sensitivity=measured), "s2p")
    assert not {stage.name for stage in known.stages} & {stage.name for stage in ranking}


@pytest.mark.parametrize("method", ["int4-blocks", "grouped-palettes"])
def test_a_methods_own_widths_are_told_in_place_of_the_recipes(no_probe: None, tiny_model: Model, method: str) -> None:
    job = make_job(tiny_model, **SETTINGS)
    foreseen, made = make_forecast(job, method), run_method(method, job)
    bits = [part.weight.bits for layer in made.general.values() for part in layer.parts]
    kept = len(layer_specs(job.model.structure)) - len(bits)
    assert bits and kept > 2, "layers whose channels make no whole groups stay in float"
    assert foreseen.layers == {"float": kept, **{str(width): count for width, count in Counter(bits).items()}}
    assert foreseen.bits_note is None
    assert foreseen.weights == {"4": sum(layer.spec.weights for layer in made.general.values())}


@pytest.mark.parametrize("place", [["--out", "ck"], []])
def test_dry_run_writes_nothing(
    tmp_path: Path, place: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["quantize", *place, "--recipe", "w4a8-quick", "--dry-run", "--steps", "2", "--device", "cpu"]
    assert run([*given, "--json", str(tmp_path / "a.json")]) == 0
    document = json.loads((tmp_path / "a.json").read_text())
    assert {"parameters", "layers", "disk", "memory_bytes", "stages", "devices"} <= set(document)
    assert document["start_seconds"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]
    text = capfd.readouterr().out
    assert "peak memory" in text and "plan: FP network in fp32" in text and "NVIDIA" in text and "this machine" in text


def test_lines_name_every_stage_and_device(plain: Forecast) -> None:
    lines = "\n".join(forecast_lines(plain))
    assert all(named.name in lines for named in (*plain.stages, *plain.devices))
    assert "latents" in lines and "training state" in lines
