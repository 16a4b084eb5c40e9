"""Bad input: one line on stderr, exit status 2, nothing written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel

from s2p_converters.core.checkpoint import MANIFEST_NAME
from s2p_mobile.cli.app import run
from s2p_mobile.demo import DEMO_MODEL
from s2p_mobile.sources.default_checkpoint import default_checkpoint
from s2p_mobile.sources.opening import open_model
from s2p_runtime.bundle import BundleManifest, file_entries

Fails = Callable[..., str]
FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture()
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO_MODEL, tmp_path / "model", ignore=lambda *_: {"clip"}))


@pytest.fixture()
def checkpoint(tmp_path: Path) -> Path:
    with default_checkpoint(open_model(None)) as folder:
        return Path(shutil.copytree(folder, tmp_path / "checkpoint"))


def test_missing_and_empty_model_folder(fails: Fails, tmp_path: Path) -> None:
    assert "does not exist" in fails("quantize", "nowhere", "--out", "ck")
    (tmp_path / "empty").mkdir()
    assert "is empty" in fails("quantize", "empty", "--out", "ck")


def test_folder_that_is_no_diffusers_model(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README").write_text("hello")
    assert "no diffusers model" in fails("quantize", "other", "--out", "ck")


def test_other_pipeline_is_named(fails: Fails, model: Path) -> None:
    (model / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    assert "FluxPipeline" in fails("quantize", model, "--out", "ck")


def test_pickled_weights_are_never_read(fails: Fails, model: Path) -> None:
    (model / "unet" / "diffusion_pytorch_model.safetensors").rename(model / "unet" / "diffusion_pytorch_model.bin")
    assert "pickled weights" in fails("quantize", model, "--out", "ck")


def test_damaged_model_weights(fails: Fails, model: Path) -> None:
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "unet" in fails("quantize", model, "--out", "ck")


def test_unet_that_cannot_be_built_is_named(fails: Fails, model: Path) -> None:
    config = json.loads((model / "unet" / "config.json").read_text())
    (model / "unet" / "config.json").write_text(json.dumps({**config, "class_embed_type": "timestep"}))
    assert "class_embed_type" in fails("quantize", model, "--out", "ck")


@pytest.mark.parametrize(
    ("arguments", "listed"),
    [
        (("quantize", "--out", "ck", "--recipe", "w1a1"), "w4a8-mixed"),
        (("quantize", "--out", "ck", "--sensitivity", "none.json"), "none.json"),
        (("quantize", "--out", "ck", "--scheduler", "magic"), "dpm++2m"),
        (("quantize", "--out", "ck", "--method", "magic"), "rtn"),
        (("convert", "--target", "tflite"), "coreml"),
        (("convert", "--target", "coreml", "--minimum-os", "iOS12"), "iOS16, iOS17, iOS18"),
        (("convert", "--target", "coreml", "--palette", "per-group"), "per-tensor, per-channel"),
    ],
)
def test_unknown_names_list_what_exists(fails: Fails, arguments: tuple[str, ...], listed: str) -> None:
    assert listed in fails(*arguments)


def test_a_cache_and_none(fails: Fails, tmp_path: Path) -> None:
    told = fails("convert", "--target", "coreml", "--cache", tmp_path / "cache", "--no-cache")
    assert told.endswith("--cache and --no-cache contradict each other; give one of them")


@pytest.mark.parametrize("arguments", [("convert",), ("quantize",), ("paint",), ("generate", "demo", "x", "--seed", "-1")])
def test_usage_errors(fails: Fails, arguments: tuple[str, ...]) -> None:
    assert "--help" in fails(*arguments)


def test_output_that_exists(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert "exists" in fails("quantize", "--out", "there")
    assert "exists" in fails("convert", "--target", "coreml", "--out", "there")


def test_recipe_file_problems(fails: Fails, tmp_path: Path) -> None:
    assert "cannot be read" in fails("quantize", "--out", "ck", "--recipe", "none.yaml")
    (tmp_path / "bad.yaml").write_text("name: x\ndescription: y\nweights: {bits: 11}\n")
    assert "weights.bits" in fails("quantize", "--out", "ck", "--recipe", "bad.yaml")
    (tmp_path / "worse.yaml").write_text("{[")
    assert "not YAML" in fails("quantize", "--out", "ck", "--recipe", "worse.yaml")


def test_damaged_checkpoints(fails: Fails, checkpoint: Path) -> None:
    weights = checkpoint / "unet.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-100])
    assert "bytes instead of" in fails("convert", checkpoint, "--target", "coreml", "--out", "b")
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "sha256" in fails("convert", checkpoint, "--target", "coreml", "--out", "b")
    weights.write_bytes(data)
    manifest = json.loads((checkpoint / "s2p.json").read_text())
    (checkpoint / "s2p.json").write_text(json.dumps({**manifest, "version": 7}))
    assert "version 7" in fails("convert", checkpoint, "--target", "coreml", "--out", "b")
    manifest["layers"] = [layer for layer in manifest["layers"] if layer["name"] != "conv_out"]
    (checkpoint / "s2p.json").write_text(json.dumps(manifest))
    assert "lacks layer conv_out" in fails("convert", checkpoint, "--target", "coreml", "--out", "b")
    assert "lacks layer conv_out" in fails("inspect", checkpoint)


def test_nan_scale_in_a_checkpoint(fails: Fails, checkpoint: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(checkpoint / "activations.safetensors")
    tensors["scales"][0, 0] = float("nan")
    save_file(tensors, checkpoint / "activations.safetensors")
    manifest = json.loads((checkpoint / "s2p.json").read_text())
    manifest["files"] = {name: entry.model_dump() for name, entry in file_entries(checkpoint, MANIFEST_NAME).items()}
    (checkpoint / "s2p.json").write_text(json.dumps(manifest))
    assert "bad activation scale" in fails("convert", checkpoint, "--target", "coreml", "--out", "b")


def test_bundle_that_points_outside_its_folder(fails: Fails, tmp_path: Path) -> None:
    fixture = Path(__file__).parents[2] / "fixtures" / "replay.s2pmobile"
    bundle = Path(shutil.copytree(fixture, tmp_path / "b.s2pmobile"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert BundleManifest.model_validate_json(json.dumps(manifest))
    manifest["files"]["../secret"] = {"sha256": "0" * 64, "bytes": 1}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert "outside" in fails("verify", bundle)
    assert "outside" in fails("generate", bundle, "a cat")


def test_sources_that_are_nothing(fails: Fails, tmp_path: Path) -> None:
    assert "does not exist" in fails("generate", "nothing", "a cat")
    assert "does not exist" in fails("verify", "nothing")
    assert "does not exist" in fails("inspect", "nothing")
    (tmp_path / "f").mkdir()
    assert "neither" in fails("inspect", "f")
    assert ".png" in fails("generate", "demo", "a cat", "--out", "cat.jpg")
    assert "does not exist" in fails("generate", "demo", "a cat", "--out", "no/folder/cat.png")


def test_checkpoint_keeps_its_sampler(fails: Fails, checkpoint: Path) -> None:
    assert "sampling plan" in fails("generate", checkpoint, "a cat", "--steps", "7")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; the message is tested in test_files.py")
def test_no_permission(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "no permission" in fails("quantize", "--out", "locked/ck", "--recipe", "w8a8")


def test_no_space_leaves_nothing(
    capfd: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from s2p_converters.targets.coreml.target import CoreMLTarget

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(CoreMLTarget, "lower", full)
    out = str(tmp_path / "b.s2pmobile")
    assert run(["convert", str(checkpoint), "--target", "coreml", "--no-cache", "--out", out]) == 2
    assert "no space left" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_other_unets_than_the_config_says(fails: Fails, model: Path) -> None:
    config = json.loads((model / "unet" / "config.json").read_text())
    UNet2DConditionModel.from_config({**config, "block_out_channels": [32, 64, 128]}).save_pretrained(model / "unet")
    (model / "unet" / "config.json").write_text(json.dumps(config))
    assert "unet" in fails("quantize", model, "--out", "ck")


def test_residency_of_what_has_none(fails: Fails, checkpoint: Path) -> None:
    assert "--residency is about programs, which a checkpoint has none of" in fails("inspect", checkpoint, "--residency")
    other = FIXTURES / "chunked.s2pmobile"
    message = fails("inspect", other, "--residency")
    assert "nothing is known of an accelerator" in message and "coreml" in message
    assert "neither a checkpoint nor a bundle" in fails("inspect", DEMO_MODEL, "--residency")


def test_residency_of_a_damaged_program(fails: Fails, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FIXTURES / "replay.s2pmobile", tmp_path / "damaged.s2pmobile"))
    assert "Manifest.json is missing or damaged" in fails("inspect", folder, "--residency")


def test_forecast_of_an_unknown_device_or_source(fails: Fails, checkpoint: Path) -> None:
    message = fails("forecast", checkpoint, "--device", "nokia3310")
    assert "--device: no figures of 'nokia3310'" in message and "iphone15pro" in message
    assert "does not count its programs" in fails("forecast", FIXTURES / "chunked.s2pmobile")
    assert "--recipe is about a model's quantization" in fails("forecast", checkpoint, "--recipe", "w4a8")
    assert "--device is about a checkpoint or a bundle" in fails("forecast", "demo", "--device", "a16")
    assert "does not exist" in fails("forecast", "nowhere")
