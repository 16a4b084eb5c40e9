"""Whole runs on the tiny model: progress, resuming, interruption, divergence, the switches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2p_mobile.quantize.compute import ComputePlan, Precision
from s2p_mobile.quantize.interruption import Interrupted
from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.latents import LatentDataset
from s2p_mobile.quantize.methods import run_method, s2p
from s2p_mobile.quantize.student import StudentSpec
from s2p_mobile.quantize.student.student import student_layers
from s2p_mobile.quantize.student.tables import TrainedTables
from s2p_mobile.quantize.training import Diverged, Trainer, load_state
from s2p_mobile.quantize.training.guard import Guard
from s2p_mobile.quantize.training.log import LOG_NAME, PLOT_NAME, read_log
from s2p_mobile.quantize.work import STATE_NAME, fingerprint
from s2p_mobile.quantize.workers import Workers
from s2p_runtime.errors import S2PError

MakeJob = Callable[..., QuantizationJob]
SAVE_ALWAYS = {"save_minutes": 1e-9}


class At:
    """A listener that acts when the training stage has come to an iteration."""

    def __init__(self, iteration: int, action: Callable[[], None]) -> None:
        self.iteration, self.action = iteration, action
        self.details: list[str] = []

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Callable[..., None]]:
        done = 0

        def advance(detail: str = "") -> None:
            nonlocal done
            done += 1
            if title == "training":
                self.details.append(detail)
                if done == self.iteration:
                    self.action()

        yield advance


def content(unet: QuantizedUNet) -> dict[str, bytes]:
    """Every bit of what a run made."""
    arrays: dict[str, Any] = {**unet.floats, **unet.time_tables} | {
        f"{name}.{part}": getattr(layer, part)
        for name, layer in unet.layers.items()
        for part in ("integers", "scale", "bias", "activation_scale")
    }
    return {name: b"" if value is None else value.tobytes() for name, value in arrays.items()}


def trainer(job: QuantizationJob, start: StudentSpec, latents: LatentDataset, folder: Path) -> Trainer:
    folder.mkdir(exist_ok=True)
    return Trainer(job, start, latents, folder, Workers("cpu"))


@pytest.fixture(scope="module")
def whole(make_job: MakeJob, latents: LatentDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """An undisturbed run of the method."""
    return content(run_method("s2p", make_job(latents=latents.folder, work=tmp_path_factory.mktemp("whole"))))


def test_training_lessens_the_error(make_job: MakeJob, latents: LatentDataset, start: StudentSpec, folder: Path) -> None:
    job = make_job({"iterations": 40, "batch": 8, "freezing": None}, progress=(listener := At(0, lambda: None)))
    run = trainer(job, start, latents, folder)

    def error() -> float:
        prompts, calls = np.divmod(np.arange(20), 5)
        sample = torch.from_numpy(latents.states(prompts.tolist(), calls.tolist()))
        (texts,) = latents.conditions(prompts.tolist())
        target = torch.from_numpy(latents.outputs(prompts.tolist(), calls.tolist()))
        with torch.no_grad():
            outputs = [run.student(sample, torch.from_numpy(calls), texts[:, b]) for b in range(2)]
        return float((torch.stack(outputs, dim=1) - target).square().mean())

    before = error()
    run.run()
    assert error() < 0.7 * before
    lines = read_log(folder / LOG_NAME)
    assert [line.iteration for line in lines] == list(range(1, 41))
    assert listener.details[-1] == f"loss {lines[-1].loss:.3g}"
    assert (folder / PLOT_NAME).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_killed_and_resumed_ends_in_the_same_bytes(
    make_job: MakeJob, latents: LatentDataset, recipe_document: dict[str, Any], whole: dict[str, bytes], folder: Path
) -> None:
    job = make_job(SAVE_ALWAYS, latents=latents.folder, work=folder / "work", resume=True)
    code = f"""
import os, signal, torch
from contextlib import contextmanager
from pathlib import Path
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.methods import run_method
from s2p_mobile.sources.model import Model
from s2p_converters.core.plan.schedulers import plan_for
from s2p_mobile.quantize.recipes import Recipe
torch.set_num_threads(1)
class Killer:
    @contextmanager
    def stage(self, title, total):
        done = 0
        def advance(detail=""):
            nonlocal done
            done += 1
            if title == "training" and done == 4:
                os.kill(os.getpid(), signal.SIGKILL)
        yield advance
model = Model(Path({str(job.model.folder)!r}))
recipe = Recipe.model_validate_json({job.recipe.model_dump_json()!r})
plan = plan_for(model.folder / "scheduler", "ddim", 5)
run_method("s2p", QuantizationJob(model, plan, recipe, {job.prompts!r}, 4.0, 2, Killer(), "cpu",
    Path({str(job.work)!r}), False, Path({str(latents.folder)!r})))
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert job.work is not None
    # Reported before it is saved: the fourth iteration is lost, and its log line must not stay.
    assert load_state(job.work / STATE_NAME, fingerprint(job)).iteration == 3
    with pytest.raises(S2PError, match=r"training state lies in .*`resume`"):
        run_method("s2p", make_job(SAVE_ALWAYS, latents=latents.folder, work=job.work))
    assert content(run_method("s2p", job)) == whole
    assert [line.iteration for line in read_log(job.work / LOG_NAME)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("pipeline", ["s2p", "serial", "parallel"])
def test_ctrl_c_and_resume_in_every_pipeline(
    make_job: MakeJob, latents: LatentDataset, start: StudentSpec, folder: Path, pipeline: str
) -> None:
    """Seven iterations of two micro-batches: the serial walk of five calls is stopped in its middle."""
    training = {"pipeline": pipeline, "iterations": 7, "accumulate": 2}
    undisturbed = content(trainer(make_job(training), start, latents, folder / "a").run())
    job = make_job(training, progress=At(4, lambda: os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(Interrupted, match="`resume`") as caught:
        trainer(job, start, latents, folder / "b").run()
    assert caught.value.exit_status == 3
    resumed = trainer(make_job(training), start, latents, folder / "b")
    resumed.restore(load_state(folder / "b" / STATE_NAME, fingerprint(job)))
    assert content(resumed.run()) == undisturbed


def test_a_state_of_other_settings_or_damaged_is_refused(
    make_job: MakeJob, latents: LatentDataset, start: StudentSpec, folder: Path
) -> None:
    job = make_job({"iterations": 1})
    trainer(job, start, latents, folder).run()
    path = folder / STATE_NAME
    load_state(path, fingerprint(make_job({"iterations": 1, "learning_rates": {"weights": 0.5}})))
    with pytest.raises(S2PError, match="another model, plan, recipe"):
        load_state(path, fingerprint(make_job({"iterations": 2})))
    (file,) = path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(S2PError, match="not a training state"):
        load_state(path, fingerprint(job))


def test_a_nan_names_layer_and_call_and_keeps_the_last_good_state(
    make_job: MakeJob, latents: LatentDataset, start: StudentSpec, folder: Path
) -> None:
    """A scale of one layer at one call becomes NaN in the middle of the run."""
    layer, call = "mid_block.attentions.0.proj_in", 3

    def poison() -> None:
        tables = run.student.tables
        assert isinstance(tables, TrainedTables) and tables.log_scales is not None
        with torch.no_grad():
            tables.log_scales[call, tables.names.index(layer)] = torch.nan

    # 20 pairs in a batch of 20: every call is in every batch.
    job = make_job({"batch": 20, "save_minutes": 1e-9}, progress=At(3, poison))
    run = trainer(job, start, latents, folder)
    with pytest.raises(Diverged, match=rf"iteration 4: the loss became nan; the output of layer {layer} at call {call} is not"):
        run.run()
    # Iteration 3 was saved after the poison, but its tensors are looked at before they are kept.
    state = load_state(folder / STATE_NAME, fingerprint(job))
    assert all(value.isfinite().all() for value in state.tensors.values() if value.is_floating_point())


def test_a_run_away_learning_rate_is_stopped(
    make_job: MakeJob, latents: LatentDataset, start: StudentSpec, folder: Path
) -> None:
    training = {
        "iterations": 60,
        "learning_rates": {"weights": 0.0, "weight_scales": 0.5, "activation_scales": 0.5, "biases": 50.0},
        "warmup": 0,
        "guard": {"factor": 5, "patience": 3, "window": 10},
    }
    job = make_job(training)
    with pytest.raises(Diverged, match=r"diverged at iteration \d+: the .*; the output of layer \S+ at call \d") as caught:
        trainer(job, start, latents, folder).run()
    assert caught.value.exit_status == 1
    # With the default rates the kept state trains to the end.
    tame = make_job({**training, "learning_rates": {}})
    resumed = trainer(tame, start, latents, folder)
    resumed.restore(load_state(folder / STATE_NAME, fingerprint(tame)))
    resumed.run()


def test_guard_counts_a_streak_and_ignores_a_spike(make_job: MakeJob) -> None:
    rule = make_job({"guard": {"factor": 10, "patience": 3, "window": 5}}).recipe.training.guard
    guard = Guard(rule)
    losses = [1.0, 1.1, 0.9, 50.0, 40.0, 1.0, 50.0, 50.0]
    assert [guard.problem(loss) for loss in losses] == [None] * len(losses)
    assert not guard.healthy
    assert "50" not in (guard.problem(1.0) or "") and guard.healthy
    for _ in range(2):
        assert guard.problem(11.0) is None
    assert "above 10 times its median 1" in str(guard.problem(11.0))
    assert guard.problem(float("inf")) == "the loss became inf"


def test_recomputing_activations_changes_no_gradient(
    make_job: MakeJob, latents: LatentDataset, start: StudentSpec, folder: Path
) -> None:
    gradients = []
    for recompute in (False, True):
        run = trainer(make_job({"checkpoint_activations": recompute}), start, latents, folder)
        run._losses(run._micro_batch(0)).total.backward()
        gradients.append([parameter.grad for parameter in run.parameters.values()])
    for a, b in zip(*gradients, strict=True):
        assert a is not None and b is not None
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_accumulated_micro_batches_are_one_batch(
    make_job: MakeJob, latents: LatentDataset, start: StudentSpec, folder: Path
) -> None:
    losses = []
    for batch, accumulate in ((8, 1), (2, 4)):
        run = trainer(make_job({"batch": batch, "accumulate": accumulate}), start, latents, folder)
        losses.append([run._step(Guard(run.rule.guard), False, False)[0].loss for _ in range(2)])
    # float32 sums in another order; the second loss follows a step of Adam, which divides by the gradient's size.
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_stored_features_stand_for_computed_ones(
    make_job: MakeJob, latents: LatentDataset, start: StudentSpec, folder: Path
) -> None:
    losses = []
    for stored in (False, True):
        run = trainer(make_job({"store_features": stored}), start, latents, folder)
        losses.append(float(run._losses(run._micro_batch(0)).features))
    # Stored as float16, 2^-11 relative; the feature error is a few percent of the features' energy.
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_bf16_is_close_to_fp32(make_job: MakeJob, latents: LatentDataset, start: StudentSpec, folder: Path) -> None:
    losses = []
    precisions: tuple[Precision, Precision] = ("fp32", "bf16")
    for precision in precisions:
        run = trainer(make_job(compute=ComputePlan(training=precision)), start, latents, folder)
        losses.append(float(run._losses(run._micro_batch(0)).total))
    assert losses[0] != losses[1]
    # The error of three-bit weights is far above that of eight-bit mantissas.
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


def test_float_inputs_outlive_an_interruption(
    make_job: MakeJob, latents: LatentDataset, start: StudentSpec, folder: Path
) -> None:
    floats = frozenset(list(start.weight_bits)[1:4])
    job = make_job({"iterations": 2})
    run = trainer(job, replace(start, float_inputs=floats), latents, folder)
    layers = run.run().layers
    assert {name for name, layer in layers.items() if layer.activation_bits is None} == floats
    assert all((layer.activation_scale is None) == (name in floats) for name, layer in layers.items())
    found = s2p._spec_of(load_state(folder / STATE_NAME, fingerprint(job)))
    assert found.float_inputs == floats and list(found.weight_bits) == list(start.weight_bits)


def test_without_averaging_the_last_parameters_are_written(
    make_job: MakeJob, latents: LatentDataset, start: StudentSpec, folder: Path
) -> None:
    run = trainer(make_job({"ema": None, "iterations": 2}), start, latents, folder)
    layers = run.run().layers
    state = load_state(folder / STATE_NAME, fingerprint(run.job))
    name = next(iter(student_layers(run.student)))
    saved = state.tensors[f"student/{name}.bias"] if layers[name].bias is not None else None
    if saved is not None:
        np.testing.assert_array_equal(layers[name].bias, saved.numpy())
    assert not any(key.startswith("average/") for key in state.tensors)
    header = (folder / LOG_NAME).read_text().splitlines()[0]
    assert set(json.loads(header)) >= {"iteration", "loss", "output", "features"}
