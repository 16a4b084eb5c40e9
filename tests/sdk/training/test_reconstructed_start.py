"""Starting weights by learned rounding: where they may lie, what they gain, and how many samples wait meanwhile."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from s2p_converters.core.graph import layer_specs, split_shortcuts
from s2p_mobile.quantize.forecast import make_forecast
from s2p_mobile.quantize.grid import weight_scale
from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.latents import LatentDataset
from s2p_mobile.quantize.methods import run_method, s2p
from s2p_mobile.quantize.preparation import reconstructed
from s2p_mobile.quantize.preparation.prepare import prepare
from s2p_mobile.quantize.preparation.reconstructed import reconstructed_weights
from s2p_mobile.quantize.rounding import memory
from s2p_mobile.quantize.rounding.block_walk import BlockWalk, reconstruction_units
from s2p_mobile.quantize.rounding.calls import read_calls
from s2p_mobile.quantize.rounding.layers import RoundedLayer
from s2p_mobile.quantize.rounding.learned import WEIGHTS_STAGE, learn_rounding
from s2p_mobile.quantize.rounding.waiting import WaitingRoom
from s2p_mobile.quantize.student.student import StudentSpec, build_student, student_layers
from s2p_mobile.quantize.training import Trainer
from s2p_mobile.quantize.work import PARTS_FOLDER
from s2p_mobile.sources.trajectory import float_unet

MakeJob = Callable[..., QuantizationJob]
START = {"start": {"rounding": "adaround", "iterations": 80, "samples": 24}, "loss": {"calls": "uniform"}}
FLOAT_ACTIVATIONS = {"activations": {"bits": None}, "weights": {"bits": 4}, "mixed": None}


@pytest.fixture(scope="module")
def job(make_job: MakeJob, latents: LatentDataset) -> QuantizationJob:
    return make_job(START, FLOAT_ACTIVATIONS, latents=latents.folder)


@pytest.fixture(scope="module")
def rounded(job: QuantizationJob) -> QuantizedUNet:
    return run_method("adaround", job)


def output_error(job: QuantizationJob, layers: QuantizedUNet, latents: LatentDataset) -> float:
    """Relative squared error of the network's output with these weights, on calls of all trajectories."""
    fp, unet = (float_unet(job.model, job.plan, job.structure) for _ in range(2))
    for name, layer in layers.layers.items():
        scale = torch.from_numpy(layer.scale.astype(np.float32)).reshape(-1, *[1] * (layer.integers.ndim - 1))
        module = unet.get_submodule(name)
        # Parameters of its own: FP graphs share the model's.
        module.weight = torch.nn.Parameter(torch.from_numpy(layer.integers.astype(np.float32)) * scale, requires_grad=False)
    calls = read_calls(latents, [0, 1, 2, 3] * 5, [call for call in range(5) for _ in range(4)], torch.device("cpu"))
    with torch.no_grad():
        expected, found = (network(calls.samples, calls.calls, *calls.conditions) for network in (fp, unet))
    return float((found - expected).square().sum() / expected.square().sum())


def test_weights_stay_within_a_step_of_the_fp_ones_on_the_recipes_grids(job: QuantizationJob, rounded: QuantizedUNet) -> None:
    source = split_shortcuts(job.model.unet.state_dict(), job.structure)
    went_up = went_down = 0
    for name, layer in rounded.layers.items():
        weight = source[f"{name}.weight"]
        scale = weight_scale(weight, layer.weight_bits, job.recipe.weights.search)
        np.testing.assert_array_equal(layer.scale, scale.numpy().astype(np.float16))
        steps = (weight / scale.reshape(-1, *[1] * (weight.dim() - 1))).numpy()
        assert layer.integers.min() >= -8 and layer.integers.max() <= 7
        inside = (steps > -8) & (steps < 7)
        assert (np.abs(layer.integers - steps)[inside] < 1).all()
        nearest = np.round(steps)
        went_up += int((layer.integers > nearest)[inside].sum())
        went_down += int((layer.integers < nearest)[inside].sum())
    # Learned, not rounded to nearest, in both directions.
    assert went_up > 100 and went_down > 100


def test_output_is_nearer_to_fp_than_with_nearest_rounding(
    job: QuantizationJob, rounded: QuantizedUNet, latents: LatentDataset
) -> None:
    assert output_error(job, rounded, latents) < 0.8 * output_error(job, run_method("rtn", job), latents)


@pytest.mark.parametrize("remainder", [0.0, 0.45])
def test_training_starts_from_these_integers(
    job: QuantizationJob, rounded: QuantizedUNet, latents: LatentDataset, remainder: float
) -> None:
    """Weights keep what is left of the float ones, up to a limit; 0.05 of a step from where another integer begins."""
    start = job.recipe.training.start.model_copy(update={"remainder": remainder})
    training = job.recipe.training.model_copy(update={"start": start})
    job = replace(job, recipe=job.recipe.model_copy(update={"training": training}))
    source = split_shortcuts(job.model.unet.state_dict(), job.structure)
    student = build_student(job, prepare(job, latents, torch.device("cpu")))
    for name, layer in student_layers(student).items():
        integers = rounded.layers[name].integers.astype(np.float64)
        np.testing.assert_array_equal(layer.integers().numpy(), integers)
        weight = source[f"{name}.weight"].double().numpy()
        steps = weight / rounded.layers[name].scale.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
        high = 2 ** (layer.weight_bits - 1) - 1
        expected = np.clip(np.clip(steps, integers - remainder, integers + remainder), -high - 1, high)
        np.testing.assert_allclose(layer.weight.detach().numpy(), expected, atol=1e-5)


def test_an_interrupted_rounding_goes_on(
    job: QuantizationJob, rounded: QuantizedUNet, latents: LatentDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[int] = []
    stop_at: int | None = 5

    def learn(unit: nn.Module, *rest: Any, **more: Any) -> None:
        if len(learned) == stop_at:
            raise KeyboardInterrupt
        learned.append(sum(isinstance(module, RoundedLayer) for module in unit.modules()))
        learn_rounding(unit, *rest, **more)

    monkeypatch.setattr(reconstructed, "learn_rounding", learn)
    bits = {name: layer.weight_bits for name, layer in rounded.layers.items()}

    def run(some: QuantizationJob) -> Mapping[str, torch.Tensor]:
        learned.clear()
        return reconstructed_weights(replace(some, work=tmp_path), bits, latents, torch.device("cpu"))

    with pytest.raises(KeyboardInterrupt):
        run(job)
    files = sorted((tmp_path / PARTS_FOLDER / WEIGHTS_STAGE).iterdir())
    units = len(reconstruction_units([layer.spec for layer in rounded.layers.values()]))
    assert len(files) == 5 and all(file.suffix == ".safetensors" for file in files)
    # A damaged unit is learned again, with the batches that it had: the file before says where the random numbers were.
    stop_at, damaged = None, files[2].read_bytes()
    files[2].write_bytes(damaged[:-7])
    found = run(job)
    assert len(learned) == units - 4
    for name, layer in rounded.layers.items():
        scale = torch.from_numpy(layer.scale.astype(np.float32)).reshape(-1, *[1] * (layer.integers.ndim - 1))
        assert torch.equal((found[name] / scale).round(), torch.from_numpy(layer.integers.astype(np.float32))), name
    assert run(job).keys() == found.keys() and not learned
    # Another job's files are not taken.
    run(replace(job, seed=3))
    assert len(learned) == units


def test_bytes_of_waiting_samples(job: QuantizationJob, latents: LatentDataset) -> None:
    """The count against the tensors that a walk really holds, at every unit of the network."""
    calls = read_calls(latents, [0, 1, 2], [0, 1, 4], torch.device("cpu"))
    unet = float_unet(job.model, job.plan, job.structure)
    room = WaitingRoom(torch.device("cpu"), torch.float32, 1 << 30)
    first = BlockWalk(unet, calls, room)
    walks, most = (first, BlockWalk(unet, calls, room)), 0
    for name, _ in reconstruction_units(layer_specs(job.structure)):
        unused, output = walks[0].capture(name, output=True)
        inputs, _ = walks[1].capture(name, output=False)
        assert output is not None
        most = max(most, (1 << 30) - room.left)
        for rows in (*unused, *inputs, output):
            rows.free()
    counted = memory.sample_bytes(job) * calls.count
    # The count takes the largest of both at once, and one more copy of a unit's tensors while they are put together.
    assert most <= counted <= 2 * most


def test_work_is_foreseen(job: QuantizationJob, rounded: QuantizedUNet, latents: LatentDataset) -> None:
    """Convolutions and products that torch counts while rounding is learned, against the forecast."""
    start = job.recipe.training.start.model_copy(update={"iterations": 8, "samples": 12})
    training = job.recipe.training.model_copy(update={"start": start})
    job = replace(job, recipe=job.recipe.model_copy(update={"training": training}))
    bits = {name: layer.weight_bits for name, layer in rounded.layers.items()}
    with FlopCounterMode(display=False) as counter:
        reconstructed_weights(job, bits, latents, torch.device("cpu"))
    forecast = make_forecast(job, "s2p")
    foreseen = sum(stage.flops for stage in forecast.stages if stage.name == WEIGHTS_STAGE)
    # A step counts as three forward passes: the forward one, the gradients of weights, and those of inputs, which the first layers of
    # a unit do not need. Attention is in the forecast alone: torch has no count of it on the CPU.
    assert counter.get_total_flops() <= foreseen <= 1.5 * counter.get_total_flops()
    (stage,) = (stage for stage in forecast.stages if stage.name == WEIGHTS_STAGE)
    weights = sum(layer.integers.size for layer in rounded.layers.values())
    assert stage.memory_parts["integers"] == weights and stage.memory_parts["waiting samples"] == 12 * memory.sample_bytes(job)


def test_whole_shortcuts_where_the_recipe_or_the_method_has_them(job: QuantizationJob, rounded: QuantizedUNet) -> None:
    def whole(found: QuantizedUNet) -> list[str]:
        return [name for name in (*found.layers, *found.general) if "up_blocks" in name and name.endswith("conv_shortcut")]

    assert rounded.split_shortcuts and not whole(rounded)
    assert {f"{name}.{part}" for name in whole(run_method("rtn", _whole(job))) for part in (0, 1)} == {
        name for name in rounded.layers if "up_blocks" in name and ".conv_shortcut." in name
    }
    for method in ("ptq4dm", "palettize"):
        found = run_method(method, job)
        assert not found.split_shortcuts and whole(found) and not any(".conv_shortcut." in name for name in found.layers)


def _whole(job: QuantizationJob) -> QuantizationJob:
    return replace(job, recipe=job.recipe.model_copy(update={"split_shortcuts": False}))


@pytest.mark.parametrize("rounding", ["adaround", "gptq"])
def test_training_does_not_hold_what_it_starts_from(
    make_job: MakeJob, latents: LatentDataset, rounding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student has weights of its own; those that rounding ended with are gigabytes of a real model's."""
    start = {"start": {"rounding": rounding, "iterations": 1, "samples": 4, "calls": 2}, "loss": {"calls": "uniform"}}
    job = make_job({**start, "iterations": 1}, latents=latents.folder, work=tmp_path)
    seen: list[weakref.ref[Any]] = []

    def watched(*arguments: Any) -> StudentSpec:
        spec = prepare(*arguments)
        held = spec.weights.values() if isinstance(spec.weights, dict) else spec.weights._layers.values()  # type: ignore[attr-defined]
        seen.extend(map(weakref.ref, held))
        return spec

    def run(trainer: Trainer) -> QuantizedUNet:
        # Modules may stand in circles.
        gc.collect()
        assert seen and not [each for each in seen if each() is not None]
        return original(trainer)

    original = Trainer.run
    monkeypatch.setattr(s2p, "prepare", watched)
    monkeypatch.setattr(Trainer, "run", run)
    run_method("s2p", job)
