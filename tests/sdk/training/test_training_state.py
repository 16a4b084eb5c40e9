"""The folder that an interrupted training run leaves."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from s2p_mobile.quantize.training.state import TrainingState, load_state, save_state
from s2p_runtime.errors import S2PError

MODULE = importlib.import_module("s2p_mobile.quantize.training.state")
STATE = TrainingState(7, {"conv_in": 8, "mid": 4}, {"student/scale": torch.tensor([0.5, 0.25])})


def test_a_state_survives_writing(tmp_path: Path) -> None:
    save_state(tmp_path / "state", STATE, "identity")
    found = load_state(tmp_path / "state", "identity")
    assert (found.iteration, list(found.weight_bits.items())) == (7, [("conv_in", 8), ("mid", 4)])
    assert torch.equal(found.part("student")["scale"], torch.tensor([0.5, 0.25]))


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "state", STATE, "identity")
    with pytest.raises(S2PError, match="is of another model, plan, recipe, prompts, guidance or seed"):
        load_state(tmp_path / "state", "other")


def test_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    """Before anything else of it is looked at."""
    path = tmp_path / "state"
    save_state(path, STATE, "identity")
    header = json.loads((path / "state.json").read_text())
    assert header["version"] == 2
    (path / "state.json").write_text(json.dumps({"version": 3, "unknown": 1}))
    with pytest.raises(S2PError, match="has format version 3, this s2p-mobile reads 2; update"):
        load_state(path, "identity")


def test_large_tensors_lie_in_files_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written at a time is bounded, so that saving does not take the state's memory again. 80 bytes and 16 go together, 24
    more would be too many."""
    monkeypatch.setattr(MODULE, "_FILE_BYTES", 100)
    tensors = {name: torch.full((size,), float(size)) for name, size in (("a", 20), ("b", 4), ("c", 6), ("d", 30))}
    save_state(tmp_path / "state", TrainingState(1, {}, tensors), "identity")
    found = load_state(tmp_path / "state", "identity").tensors
    assert {name: value.tolist() for name, value in found.items()} == {name: value.tolist() for name, value in tensors.items()}
    sizes = [sum(value.nbytes for value in load_file(path).values()) for path in (tmp_path / "state").rglob("*.safetensors")]
    assert sorted(sizes) == [24, 96, 120]


def test_a_new_state_counts_when_its_header_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed just before the header is replaced: the old state is whole."""
    path = tmp_path / "state"
    save_state(path, STATE, "identity")
    with monkeypatch.context() as patch:
        patch.setattr(MODULE._Header, "model_dump_json", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save_state(path, TrainingState(8, {}, {"other": torch.zeros(2)}), "identity")
    assert load_state(path, "identity").iteration == 7
    assert torch.equal(load_state(path, "identity").part("student")["scale"], torch.tensor([0.5, 0.25]))
    save_state(path, TrainingState(9, {}, {"other": torch.zeros(2)}), "identity")
    assert load_state(path, "identity").iteration == 9
    assert len([place for place in path.iterdir() if place.is_dir()]) == 1
