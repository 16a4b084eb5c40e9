"""Reading checkpoints: what was written, and every kind of damage."""

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
from s2p_converters.core.graph import split_shortcuts
from s2p_mobile.sources.model import Model
from s2p_runtime.bundle import file_entries
from s2p_runtime.errors import S2PError

MakeCheckpoint = Callable[..., Checkpoint]


@pytest.fixture()
def copy(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint.folder, tmp_path / "ck"))


def rehash(folder: Path, change: Callable[[dict[str, Any]], None] = lambda manifest: None) -> None:
    """Recompute the checksums, as somebody would who edits a checkpoint on purpose."""
    manifest = json.loads((folder / "s2p.json").read_text())
    manifest["files"] = {name: entry.model_dump() for name, entry in file_entries(folder, MANIFEST_NAME).items()}
    change(manifest)
    (folder / "s2p.json").write_text(json.dumps(manifest))


def edit(folder: Path, file: str, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    tensors = dict(load_file(folder / file))
    change(tensors)
    save_file(tensors, folder / file)
    rehash(folder)


def test_integers_times_scales_approximate_the_source(checkpoint: Checkpoint, small_model: Model) -> None:
    source = split_shortcuts(small_model.unet.state_dict(), checkpoint.structure)
    for name, layer in checkpoint.layers.items():
        scale = layer.scale.astype(np.float64).reshape(-1, *([1] * (layer.integers.ndim - 1)))
        error = np.abs(scale * layer.integers - source[f"{name}.weight"].numpy())
        inside = np.abs(layer.integers) < (1 << (layer.weight_bits - 1)) - 1
        # Rounding to nearest: half a step, wherever the grid did not clip.
        assert (error[inside] <= (0.5 * scale * np.ones_like(error))[inside] * (1 + 1e-6)).all()
    kept = {entry.name for entry in checkpoint.manifest.layers if entry.weight_bits is None}
    assert kept == {"conv_in", "conv_out"}
    for name in kept:
        np.testing.assert_array_equal(checkpoint.floats[f"{name}.weight"], source[f"{name}.weight"].numpy())


def test_mixed_recipe_gives_a_tenth_of_the_layers_eight_bits(checkpoint: Checkpoint) -> None:
    bits = [layer.weight_bits for layer in checkpoint.layers.values()]
    assert bits.count(8) == -(-len(bits) // 10) and bits.count(4) == len(bits) - bits.count(8)


def test_same_seed_gives_the_same_bytes(checkpoint: Checkpoint, small_model: Model, tmp_path: Path) -> None:
    from s2p_mobile.quantize.checkpointing import write_checkpoint
    from s2p_mobile.quantize.methods import QuantizationJob, run_method
    from s2p_mobile.quantize.recipes import Recipe

    manifest = checkpoint.manifest
    job = QuantizationJob(
        small_model, manifest.plan, Recipe.model_validate(manifest.recipe), ("a red apple on a blue background",), 4.0
    )
    write_checkpoint(job, "rtn", run_method("rtn", job), tmp_path)
    assert file_entries(tmp_path, MANIFEST_NAME) == file_entries(checkpoint.folder, MANIFEST_NAME)
    assert (tmp_path / "s2p.json").read_bytes() == (checkpoint.folder / "s2p.json").read_bytes()


def test_no_pickle_inside(checkpoint: Checkpoint) -> None:
    kinds = {path.suffix for path in checkpoint.folder.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".safetensors", ".txt"}


def test_missing_folder_and_other_folders() -> None:
    with pytest.raises(S2PError, match="is not a folder"):
        open_checkpoint(Path("does-not-exist"))


def test_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(S2PError, match=r"has no s2p\.json"):
        open_checkpoint(tmp_path)


def test_truncated_file(copy: Path) -> None:
    data = (copy / "unet.safetensors").read_bytes()
    (copy / "unet.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(S2PError, match=r"unet\.safetensors .* bytes instead of"):
        open_checkpoint(copy)


def test_truncated_file_with_recomputed_checksums(copy: Path) -> None:
    data = (copy / "unet.safetensors").read_bytes()
    (copy / "unet.safetensors").write_bytes(data[: len(data) // 2])
    rehash(copy)
    with pytest.raises(S2PError, match=r"unet\.safetensors"):
        open_checkpoint(copy)


def test_altered_file(copy: Path) -> None:
    data = bytearray((copy / "unet.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "unet.safetensors").write_bytes(data)
    with pytest.raises(S2PError, match="sha256"):
        open_checkpoint(copy)


def test_missing_file(copy: Path) -> None:
    (copy / "time_table.safetensors").unlink()
    with pytest.raises(S2PError, match=r"lacks time_table\.safetensors"):
        open_checkpoint(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.update(version=2),
        lambda manifest: manifest.update(version=2, layers=None, novelty=1),
        lambda manifest: [manifest.pop(name) for name in list(manifest) if name != "format"] and manifest.update(version=2),
    ],
)
def test_a_newer_version_is_refused_by_name(copy: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Before anything else of it is looked at."""
    rehash(copy, change)
    with pytest.raises(S2PError, match=r"s2p\.json has format version 2, this s2p-mobile reads 1; update with pip"):
        open_checkpoint(copy)


@pytest.mark.parametrize("field", ["softmax_bits", "conditioning", "split_shortcuts", "unet_config"])
def test_every_field_has_to_be_there(copy: Path, field: str) -> None:
    rehash(copy, lambda manifest: manifest.pop(field))
    with pytest.raises(S2PError, match=rf"is invalid \({field}: Field required\)"):
        open_checkpoint(copy)


@pytest.mark.parametrize("field", ["grid", "split", "quantizes_output", "activation_zero", "activation_bits"])
def test_every_field_of_a_layer_has_to_be_there(copy: Path, field: str) -> None:
    rehash(copy, lambda manifest: manifest["layers"][0].pop(field))
    with pytest.raises(S2PError, match=rf"is invalid \(layers\.0\.{field}: Field required\)"):
        open_checkpoint(copy)


def test_split_shortcuts(copy: Path, checkpoint: Checkpoint) -> None:
    assert checkpoint.manifest.split_shortcuts
    names = [entry.name for entry in checkpoint.manifest.layers if "conv_shortcut" in entry.name]
    # Those of down blocks have one input; of up blocks the state (with the bias) and the skip.
    up = [name for name in names if name.startswith("up_blocks")]
    assert up and {name.rpartition(".")[2] for name in up} == {"0", "1"}
    assert all(name.endswith("conv_shortcut") for name in names if name not in up)
    for name in up:
        assert (checkpoint.layers[name].bias is not None) == name.endswith(".0")
    rehash(copy, lambda manifest: manifest.update(split_shortcuts=False))
    with pytest.raises(S2PError, match="conv_shortcut"):
        open_checkpoint(copy)


def test_whole_shortcuts_and_zero_points(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint(split=False)
    zeros = {name: layer.activation_zero for name, layer in checkpoint.layers.items()}
    assert not any(".conv_shortcut." in name for name in zeros) and any(zeros.values())
    written = {entry["name"]: entry for entry in json.loads((checkpoint.folder / "s2p.json").read_text())["layers"]}
    # What every convolution of a resnet reads comes from SiLU, at least -0.2785.
    assert all(zeros[name] < 0 for name in zeros if ".resnets." in name and name.endswith(("conv1", "conv2")))
    assert {name: entry["activation_zero"] for name, entry in written.items() if name in zeros} == zeros
    floats = [entry for name, entry in written.items() if name not in zeros]
    assert floats and all(entry["grid"] is None and entry["activation_zero"] == 0 for entry in floats)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda entry: entry.update(activation_zero=128), "zero point outside 8 bits"),
        (lambda entry: entry.update(activation_zero=1.5), "activation_zero"),
        (lambda entry: entry.update(activation_zero=None), "activation_zero"),
        (lambda entry: entry.update(activation_bits=None), "zero point of activations that it does not round"),
        (lambda entry: entry.update(grid="affine"), "zero point of activations that it does not round"),
        (lambda entry: entry.update(grid=None), "weight bits without a grid"),
        (lambda entry: entry.update(weight_bits=None), "grid without weight bits"),
        (lambda entry: entry.update(weight_bits=None, grid=None, activation_zero=0), "quantizes activations but not weights"),
        (lambda entry: entry.update(grid="palette", activation_zero=0, split=0), "split"),
        (lambda entry: entry.update(split=3), "symmetric grid, which is neither split"),
    ],
)
def test_bad_layers(copy: Path, change: Callable[[dict[str, Any]], None], problem: str) -> None:
    def apply(manifest: dict[str, Any]) -> None:
        change(next(entry for entry in manifest["layers"] if entry["activation_zero"]))

    rehash(copy, apply)
    with pytest.raises(S2PError, match=problem):
        open_checkpoint(copy)


def test_nan_weight_scale(copy: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["mid_block.resnets.0.conv1.weight_scale"][3] = np.nan

    edit(copy, "unet.safetensors", change)
    with pytest.raises(S2PError, match=r"NaN or infinity in mid_block\.resnets\.0\.conv1\.weight_scale"):
        open_checkpoint(copy)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1.0])
def test_bad_activation_scale(copy: Path, bad: float) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["scales"][1, 2] = bad

    edit(copy, "activations.safetensors", change)
    with pytest.raises(S2PError, match=r"bad activation scale: layer \S+, call 1"):
        open_checkpoint(copy)


def test_missing_tensor(copy: Path) -> None:
    edit(copy, "unet.safetensors", lambda tensors: tensors.pop("mid_block.resnets.0.conv1.weight_q"))
    with pytest.raises(S2PError, match=r"lacks mid_block\.resnets\.0\.conv1\.weight_q"):
        open_checkpoint(copy)


def test_layer_missing_from_the_manifest(copy: Path) -> None:
    rehash(copy, lambda manifest: manifest["layers"].pop())  # conv_out, which has no activation scale
    with pytest.raises(S2PError, match="lacks layer conv_out"):
        open_checkpoint(copy)


def test_wrong_table_shape(copy: Path) -> None:
    edit(copy, "activations.safetensors", lambda tensors: tensors.update(scales=tensors["scales"][:2]))
    with pytest.raises(S2PError, match="activation table"):
        open_checkpoint(copy)


def test_bad_time_table(copy: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["mid_block.resnets.0.time"][0, 0] = np.nan

    edit(copy, "time_table.safetensors", change)
    with pytest.raises(S2PError, match=r"time table of mid_block\.resnets\.0"):
        open_checkpoint(copy)


def test_path_outside_the_folder(copy: Path) -> None:
    rehash(copy, lambda manifest: manifest["files"].update({"../evil": {"sha256": "0" * 64, "bytes": 0}}))
    with pytest.raises(S2PError, match="outside"):
        open_checkpoint(copy)
