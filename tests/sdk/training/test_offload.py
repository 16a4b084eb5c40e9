"""Tensors of the backward pass kept on the host: the same gradients, and nothing on machines with one memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from s2p_mobile.cli.app import run
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.latents import LatentDataset
from s2p_mobile.quantize.student import StudentSpec
from s2p_mobile.quantize.training import Trainer
from s2p_mobile.quantize.training.offload import saved_elsewhere
from s2p_mobile.quantize.work import fingerprint
from s2p_mobile.quantize.workers import Workers

MakeJob = Callable[..., QuantizationJob]


@pytest.fixture
def gradients(
    make_job: MakeJob, start: StudentSpec, latents: LatentDataset, folder: Path
) -> Callable[..., dict[str, torch.Tensor]]:
    """``gradients(offloads, **training)`` of the first micro-batch."""

    def of(offloads: bool, **training: Any) -> dict[str, torch.Tensor]:
        trainer = Trainer(make_job(training), start, latents, folder, Workers("cpu"))
        trainer._offloads = offloads
        trainer._losses(trainer._micro_batch(0)).total.backward()
        return {name: value.grad.clone() for name, value in trainer.parameters.items() if value.grad is not None}

    return of


@pytest.mark.parametrize("recomputes", [False, True])
def test_gradients_are_the_same(gradients: Callable[..., dict[str, torch.Tensor]], recomputes: bool) -> None:
    with_it, without = (gradients(offloads, checkpoint_activations=recomputes) for offloads in (True, False))
    assert set(with_it) == set(without) and len(without) > 20
    again = gradients(False, checkpoint_activations=recomputes)
    print(
        "X",
        len([n for n in without if not torch.equal(again[n], without[n])]),
        max(float((with_it[n] - without[n]).norm() / without[n].norm()) for n in without),
    )
    assert all(torch.equal(with_it[name], without[name]) for name in without)
    assert sum(float(value.abs().sum()) for value in without.values()) > 0


def test_only_cuda_has_another_memory() -> None:
    assert saved_elsewhere(torch.device("cuda"))
    assert not saved_elsewhere(torch.device("cpu")) and not saved_elsewhere(torch.device("mps"))


def test_the_switch_changes_no_run(make_job: MakeJob, start: StudentSpec, latents: LatentDataset, folder: Path) -> None:
    plain, offloaded = make_job(), make_job({"offload_activations": True, "shard_optimizer": True})
    # A state may be continued with and without.
    assert fingerprint(plain) == fingerprint(offloaded)
    assert not Trainer(offloaded, start, latents, folder, Workers("cpu"))._offloads


def test_quantize_says_that_it_has_no_effect(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = {"name": "t", "description": "t", "weights": {"bits": 4}, "training": {"offload_activations": True, "prompts": 1}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    given = ["quantize", "--recipe", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "ck"), "--device", "cpu", "--dry-run"]
    assert run([*given, "--steps", "1"]) == 0
    assert "offload_activations has no effect" in capfd.readouterr().err
