"""The file that an interrupted training run leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from s2p_mobile.quantize.training.state import TrainingState, load_state, save_state
from s2p_runtime.errors import S2PError

STATE = TrainingState(7, {"conv_in": 8, "mid": 4}, {"student/scale": torch.tensor([0.5, 0.25])})


def test_a_state_survives_writing(tmp_path: Path) -> None:
    save_state(tmp_path / "state.safetensors", STATE, "identity")
    found = load_state(tmp_path / "state.safetensors", "identity")
    assert (found.iteration, list(found.weight_bits.items())) == (7, [("conv_in", 8), ("mid", 4)])
    assert torch.equal(found.part("student")["scale"], torch.tensor([0.5, 0.25]))


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "state.safetensors", STATE, "identity")
    with pytest.raises(S2PError, match="is of another model, plan, recipe, prompts, guidance or seed"):
        load_state(tmp_path / "state.safetensors", "other")


def test_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    """Before anything else of it is looked at."""
    path = tmp_path / "state.safetensors"
    save_state(path, STATE, "identity")
    with safe_open(path, "pt") as handle:
        ((key, header),) = handle.metadata().items()
    assert json.loads(header)["version"] == 1
    save_file(load_file(path), path, {key: json.dumps({"version": 2})})
    with pytest.raises(S2PError, match="has format version 2, this s2p-mobile reads 1; update"):
        load_state(path, "identity")
