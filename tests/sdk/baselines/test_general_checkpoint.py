"""Checkpoints with other grids than symmetric ones: what they store, and every kind of damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from s2p_converters.core.checkpoint import MANIFEST_NAME, Checkpoint, open_checkpoint
from s2p_runtime.bundle import file_entries
from s2p_runtime.errors import S2PError

MakeCheckpoint = Callable[..., Checkpoint]
SHORTCUT = "up_blocks.1.resnets.0.conv_shortcut"


@pytest.fixture()
def copy(baseline_checkpoint: MakeCheckpoint, tmp_path: Path) -> Path:
    return Path(shutil.copytree(baseline_checkpoint("q-diffusion", "own").folder, tmp_path / "ck"))


def edit(folder: Path, file: str, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = dict(load_file(folder / file))
    change(tensors)
    save_file(tensors, folder / file)
    rewrite(folder, lambda manifest: None)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and make its checksums right again."""
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    manifest["files"] = {name: entry.model_dump() for name, entry in file_entries(folder, MANIFEST_NAME).items()}
    change(manifest)
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))


def test_what_layers_say_of_their_grids(baseline_checkpoint: MakeCheckpoint) -> None:
    def written(method: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        manifest = json.loads((baseline_checkpoint(method, "own").folder / MANIFEST_NAME).read_text())
        assert manifest["version"] == 1
        return manifest, manifest["layers"]

    manifest, layers = written("ptq4dm")
    assert manifest["softmax_bits"] is None
    assert {layer["grid"] for layer in layers if layer["weight_bits"] is not None} == {"symmetric"}
    assert all(layer["split"] is None and layer["quantizes_output"] is False for layer in layers)
    manifest, layers = written("q-diffusion")
    assert {layer["grid"] for layer in layers if layer["weight_bits"] is not None} == {"affine"}
    assert {layer["name"] for layer in layers if layer["split"] is not None} >= {SHORTCUT}
    assert all(layer["activation_zero"] == 0 for layer in layers)


def test_weights_are_scale_times_integer_less_zero(copy: Path) -> None:
    tensors = load_file(copy / "unet.safetensors")
    layer = open_checkpoint(copy).general[SHORTCUT]
    halves = []
    for key, part in zip((SHORTCUT, f"{SHORTCUT}.part1"), layer.parts, strict=True):
        packed = tensors[f"{key}.weight_q"]
        integers = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[: part.channels * layer.spec.out_channels]
        integers = integers.reshape(layer.spec.out_channels, part.channels).astype(np.float64)
        scale, zero = (tensors[f"{key}.{name}"].astype(np.float64)[:, None] for name in ("weight_scale", "weight_zero"))
        halves.append(scale * (integers - zero))
    np.testing.assert_array_equal(layer.weights[:, :, 0, 0], np.concatenate(halves, axis=1))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("unet", lambda t: t.pop(f"{SHORTCUT}.part1.weight_q"), r"lacks \S+part1\.weight_q"),
        ("unet", lambda t: t[f"{SHORTCUT}.weight_zero"].__setitem__(0, 16), "bad weight scale or zero point"),
        ("unet", lambda t: t[f"{SHORTCUT}.weight_scale"].__setitem__(0, 0), "bad weight scale or zero point"),
        ("unet", lambda t: t.update({f"{SHORTCUT}.weight_zero": np.zeros(3, np.uint8)}), "of shape"),
        ("activations", lambda t: t[f"{SHORTCUT}.scale"].__setitem__(1, -1), "bad activation grid"),
        ("activations", lambda t: t[f"{SHORTCUT}.part1.zero"].__setitem__(1, 256), "bad activation grid"),
        ("activations", lambda t: t[f"{SHORTCUT}.bits"].__setitem__(0, 17), "bad activation grid"),
        ("activations", lambda t: t[f"{SHORTCUT}.scale"].__setitem__(0, np.nan), "NaN or infinity"),
        ("activations", lambda t: t.update({f"{SHORTCUT}.zero": np.zeros(5, np.int64)}), "of dtype int64"),
    ],
)
def test_damage_is_named(copy: Path, file: str, change: Callable[[dict[str, np.ndarray]], object], message: str) -> None:
    edit(copy, f"{file}.safetensors", change)
    with pytest.raises(S2PError, match=message):
        open_checkpoint(copy)


def test_an_impossible_split(copy: Path) -> None:
    def split_too_far(manifest: dict[str, Any]) -> None:
        next(entry for entry in manifest["layers"] if entry["name"] == SHORTCUT)["split"] = 10_000

    rewrite(copy, split_too_far)
    with pytest.raises(S2PError, match="splits the input of layer"):
        open_checkpoint(copy)
