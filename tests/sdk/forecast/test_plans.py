"""Plans that fit a memory, counts that fit a time, and what a run that goes on keeps of both."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from s2p_converters.core.graph import FloatLayer, layer_specs
from s2p_mobile.cli.app import run
from s2p_mobile.quantize.compute import ComputePlan
from s2p_mobile.quantize.counts import counts_of, scaled
from s2p_mobile.quantize.forecast.budget import budget_seconds, within_budget
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.jobs import make_job
from s2p_mobile.quantize.memory_limits import chosen_plan, keep_plan, memory_bytes, within_memory
from s2p_mobile.quantize.planning import Room, best_plan, plan_words, planned, stages_of
from s2p_mobile.sources.trajectory import float_unet
from s2p_runtime.errors import S2PError

GIB = 2**30


@pytest.fixture(scope="module")
def job() -> QuantizationJob:
    """The default recipe on the demo model."""
    return make_job(None, steps=3, device="cpu")


def most(job: QuantizationJob) -> int:
    return max(stage.memory.on_device + stage.memory.on_host for stage in stages_of(job, "s2p"))


def test_the_first_plan_is_the_most_exact_one(job: QuantizationJob) -> None:
    assert best_plan(job, "s2p", Room("cpu", None)).compute == ComputePlan()
    t4, newer = (best_plan(job, "s2p", Room("cuda", None, None, bf16)).compute for bf16 in (False, True))
    assert (t4.graph, t4.training) == ("fp16", "fp16") and (newer.graph, newer.training) == ("fp16", "bf16")
    mac = best_plan(job, "s2p", Room("mps", None)).compute
    assert (mac.device, mac.graph, mac.training) == ("mps", "fp16", "fp32")


def test_a_processor_widens_the_weights_that_rest_narrow(job: QuantizationJob) -> None:
    """The narrow network is the float32 one whose weights were rounded to bfloat16, at half the memory."""
    torch.manual_seed(0)
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor([1, 1]), torch.randn(2, job.model.conditioner.tokens, 128))
    plan = ComputePlan(graph="bf16")
    narrow = plan.place(float_unet(job.model, job.plan), torch.device("cpu"))
    rounded = float_unet(job.model, job.plan)
    rounded.load_state_dict(
        {
            name: value.to(torch.bfloat16).float() if is_weight(narrow, name) else value
            for name, value in rounded.state_dict().items()
        },
        assign=True,
    )
    with torch.no_grad():
        assert torch.equal(narrow(*inputs), rounded(*inputs))
    weights = {name for name, value in narrow.state_dict().items() if value.dtype == torch.bfloat16}
    assert weights == {f"{spec.name}.weight" for spec in layer_specs(job.model.structure)}
    assert (plan.graph_dtype, plan.waiting_dtype) == (torch.float32, torch.bfloat16)


def is_weight(network: torch.nn.Module, name: str) -> bool:
    module, _, parameter = name.rpartition(".")
    return parameter == "weight" and isinstance(network.get_submodule(module), FloatLayer)


def test_plans_shrink_until_they_fit(job: QuantizationJob) -> None:
    """With less and less memory each plan takes no more than is there, and none takes more than the one before."""
    whole, least = most(job), most(best_plan(job, "s2p", Room("cpu", 1)))
    assert least < 0.9 * whole
    taken, learns = [], []
    for limit in (1.1 * whole, 0.9 * whole, (whole + least) / 2, 1.001 * least):
        found = planned(job, "s2p", Room("cpu", int(limit / 0.95) + 1))
        assert most(found) <= limit + 1
        taken.append(most(found))
        learns.append(found.recipe.training.learn)
    assert taken == sorted(taken, reverse=True) and taken[-1] < taken[0]
    assert learns[0] == "weights"
    assert best_plan(job, "s2p", Room("cpu", 1)).recipe.training.learn == "scales", "the last resort"
    with pytest.raises(S2PError, match=r"needs .* of memory at least and 20\.0 MiB are there"):
        planned(job, "s2p", Room("cpu", 20 << 20))


def test_what_the_user_asked_for_stays(job: QuantizationJob) -> None:
    training = job.recipe.training.model_copy(update={"precision": "bf16", "checkpoint_activations": True})
    asked = replace(job, recipe=job.recipe.model_copy(update={"training": training}))
    plan = best_plan(asked, "s2p", Room("cpu", None)).compute
    assert (plan.training, plan.recompute) == ("bf16", True)


@pytest.mark.parametrize("text", ["12", "0GiB", "lots", "-1GB"])
def test_no_size_is_refused(text: str) -> None:
    with pytest.raises(S2PError, match="memory"):
        memory_bytes(text)
    assert memory_bytes("auto") is None and memory_bytes("1.5GiB") == 3 * GIB // 2 and memory_bytes(7) == 7


@pytest.mark.parametrize("text", ["45", "0min", "soon", "-1h"])
def test_no_time_is_refused(text: str) -> None:
    with pytest.raises(S2PError, match="is no time"):
        budget_seconds(text)
    assert budget_seconds("1.5h") == 5400 and budget_seconds("45min") == 2700


def test_counts_fit_the_time(job: QuantizationJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stopwatch that knows every piece by its size: a quarter of the time gives less of everything that takes it."""
    from s2p_mobile.quantize.forecast.stopwatch import Stopwatch

    def pretend(self: Any, key: Any, pieces: Any) -> None:
        self._times[key] = 1e-10 * pieces[key].size
        self._learn_pace(key[0])

    monkeypatch.setattr(Stopwatch, "_time", pretend)
    same, said = within_budget(job, "s2p", 1e9)
    assert same is job and "the whole recipe" in said
    seconds = sum_of(job)
    found, said = within_budget(job, "s2p", seconds / 4)
    assert 0.7 * seconds / 4 < sum_of(found) <= seconds / 4
    before, after = counts_of(job.recipe), counts_of(found.recipe)
    assert after["trajectories"] < before["trajectories"] and f"{after['trajectories']} of 512 trajectories" in said
    with pytest.raises(S2PError, match="the smallest counts of w4a8-mixed take about"):
        within_budget(job, "s2p", 1e-6)


def sum_of(job: QuantizationJob) -> float:
    from s2p_mobile.quantize.forecast.timing import Timing
    from s2p_mobile.quantize.stages.parts import float_network

    fp = float_network(job.structure, job.model.conditioner.tokens)
    return Timing(stages_of(job, "s2p"), job.counted, fp, torch.device("cpu")).seconds


def test_scaled_counts_keep_what_must_be(job: QuantizationJob) -> None:
    assert scaled(job.recipe, 1.0) == job.recipe
    least = counts_of(scaled(job.recipe, 1e-6))
    assert least["trajectories"] == job.recipe.training.batch and least["rounding steps"] == 50
    assert min(least.values()) >= 1


def test_a_run_that_goes_on_keeps_plan_and_counts(job: QuantizationJob, tmp_path: Path) -> None:
    smaller = ComputePlan(recompute=True, pairs=2, moments="bf16")
    begun = replace(job, work=tmp_path, compute=smaller, recipe=scaled(job.recipe, 0.25))
    keep_plan(begun)
    found, words = chosen_plan(replace(job, work=tmp_path, resume=True), "s2p", None, "1min")
    assert found.compute == smaller and found.recipe == begun.recipe
    assert words == [f"plan: {plan_words(begun)}"], "a time is not asked for again"
    anew, _ = chosen_plan(replace(job, work=tmp_path, resume=True), "s2p", 64 * GIB, None)
    assert anew.compute == ComputePlan() and anew.recipe == begun.recipe


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_memory_that_runs_out_is_said_with_its_stage(job: QuantizationJob, tmp_path: Path, error: Exception) -> None:
    with (
        pytest.raises(S2PError) as caught,
        within_memory(replace(job, work=tmp_path)) as watched,
        watched.progress.stage("training", 3) as advance,
    ):
        advance()
        raise error
    text = str(caught.value)
    assert text.startswith("memory ran out in training under the plan: FP network in fp32")
    assert str(tmp_path) in text and "`memory` a size smaller" in text and "`resume`" in text
    with pytest.raises(RuntimeError, match="something else"), within_memory(job):
        raise RuntimeError("something else")


def test_too_little_memory_is_refused_before_anything_begins(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["quantize", "--memory", "100MiB", "--out", str(tmp_path / "ck"), "--device", "cpu", "--steps", "2"]) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert re.fullmatch(
        r"error: .* needs \d+\.\d MiB of memory at least and 100\.0 MiB are there; close other programs, .*", lines[-1]
    )
    assert list(tmp_path.iterdir()) == []
