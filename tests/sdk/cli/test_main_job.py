"""The main job as a user runs it: in processes of its own, from an empty folder."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from s2p_converters.core.checkpoint import open_checkpoint
from s2p_converters.targets.coreml.residency import expected_placement
from s2p_mobile.cli.app import run
from s2p_mobile.sources.default_checkpoint import default_checkpoint
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model
from s2p_runtime.bundle import file_entries, open_bundle
from s2p_runtime.files import list_files


def command(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "s2p_mobile", *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False
    )


def command_here(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str | Path
) -> str:
    """What a command prints that ends well, in this process: others have shown that it starts."""
    monkeypatch.chdir(folder)
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def converted(place: Path) -> subprocess.CompletedProcess[str]:
    return command(place, "convert", "--target", "coreml", "--json", "figures.json")


@pytest.fixture()
def bundle(place: Path, converted: subprocess.CompletedProcess[str]) -> Path:
    return place / "demo-coreml.s2pmobile"


def test_convert_prints_sizes_and_the_next_command(place: Path, converted: subprocess.CompletedProcess[str]) -> None:
    assert converted.returncode == 0, converted.stderr
    assert "next: s2p-mobile verify demo-coreml.s2pmobile" in converted.stdout
    assert "in fp16" in converted.stdout and "bits a weight" in converted.stdout
    figures = json.loads((place / "figures.json").read_text())
    unet = figures["unet"]
    with default_checkpoint(open_model(None)) as folder:
        manifest = open_checkpoint(folder).manifest
    assert unet["layers"] == manifest.layer_counts and unet["average_weight_bits"] == manifest.average_weight_bits
    package = place / "demo-coreml.s2pmobile" / "unet.mlpackage"
    assert unet["bytes"] == sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    # 4 bits of 32 are 0.125; tables, norms, the two float layers and the program itself come on top.
    assert unet["bytes"] <= 0.16 * unet["fp32_bytes"]


def test_only_our_own_lines_reach_the_terminal(converted: subprocess.CompletedProcess[str]) -> None:
    known = (
        "text encoder",
        "VAE decoder",
        "U-Net",
        "self-check",
        "golden run",
        "converting",
        "bundle",
        "next",
        "note",
        "expected",
    )
    for line in (converted.stdout + converted.stderr).splitlines():
        assert line.startswith(known), line


def test_verify_accepts_it(place: Path, bundle: Path) -> None:
    result = command(place, "verify", bundle, "--json", "-")
    assert result.returncode == 0, result.stdout + result.stderr
    figures = json.loads(result.stdout)
    assert figures["ok"] and set(figures["components"]) == {"text_encoder", "unet", "vae_decoder", "sampler", "recorded calls"}
    assert all(c["max_relative_error"] <= c["tolerance"] for c in figures["components"].values())
    assert len(figures["golden"]) >= 2


@pytest.fixture(scope="module")
def small_checkpoint(tiny_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "checkpoint"
    options = ["--method", "rtn", "--recipe", "w4a8", "--scheduler", "ddim", "--steps", "5", "--out", str(folder)]
    assert run(["quantize", str(tiny_model.folder), *options]) == 0
    return folder


@pytest.fixture(scope="module")
def small_bundle(small_checkpoint: Path) -> Path:
    """Everything that the demo model's bundle has, in a fraction of the arithmetic."""
    bundle, kept = small_checkpoint.with_name("small.s2pmobile"), small_checkpoint.with_name("kept")
    assert run(["convert", str(small_checkpoint), "--target", "coreml", "--out", str(bundle), "--cache", str(kept)]) == 0
    assert len(list(kept.iterdir())) == 2
    assert command(bundle.parent, "verify", bundle).returncode == 0
    return bundle


def test_a_second_conversion_takes_what_the_first_kept(
    small_bundle: Path, small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again, kept = tmp_path / "small.s2pmobile", small_checkpoint.with_name("kept")
    assert run(["convert", str(small_checkpoint), "--target", "coreml", "--out", str(again), "--cache", str(kept)]) == 0
    told = [
        line.partition(":")[0] for line in capsys.readouterr().err.splitlines() if line.endswith("from an earlier conversion")
    ]
    assert told == ["text encoder", "VAE decoder"]
    files = [{name: (folder / name).read_bytes() for name in list_files(folder)} for folder in (small_bundle, again)]
    assert files[0] == files[1]


def rehash(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"] = {name: entry.model_dump() for name, entry in file_entries(bundle).items()}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def flip_weight_byte(bundle: Path, checkpoint: Path) -> None:
    blob = next((bundle / "unet.mlpackage").rglob("weight.bin"))
    data = bytearray(blob.read_bytes())
    # A record begins with 0xDEADBEEF, its type, its size and where its bytes lie; between records there is padding.
    starts = [k for k in range(0, len(data), 64) if data[k : k + 4] == b"\xef\xbe\xad\xde"]
    size, offset = max(struct.unpack_from("<QQ", data, start + 8) for start in starts)
    data[offset + size // 2] ^= 0x10
    blob.write_bytes(data)


def change_table_entry(bundle: Path, checkpoint: Path) -> None:
    """One entry of the merged step table: the last call's scale of the last layer, found by its known value."""
    layer = list(open_checkpoint(checkpoint).layers.values())[-1]
    assert layer.activation_scale is not None
    inverse = np.float16(2.0**-7 / np.float64(layer.activation_scale[-1]))
    scale = np.float16(layer.activation_scale[-1] * 128)
    blob = next((bundle / "unet.mlpackage").rglob("weight.bin"))
    data = blob.read_bytes()
    pair = inverse.tobytes() + scale.tobytes()
    at = data.rindex(pair)
    blob.write_bytes(data[:at] + np.float16(inverse * np.float16(1.01)).tobytes() + data[at + 2 :])


def change_sampler_row(bundle: Path, checkpoint: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    row = manifest["plan"]["calls"][3]
    row["outputs"][0][1] *= 1.0001
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def change_text_encoder_byte(bundle: Path, checkpoint: Path) -> None:
    """A token that no golden prompt uses."""
    blob = next((bundle / "text_encoder.mlpackage").rglob("weight.bin"))
    data = bytearray(blob.read_bytes())
    data[4096] ^= 0x01
    blob.write_bytes(data)


@pytest.mark.parametrize("damage", [flip_weight_byte, change_table_entry, change_sampler_row, change_text_encoder_byte])
def test_verify_finds_what_checksums_cannot(
    small_bundle: Path,
    small_checkpoint: Path,
    damage: Callable[[Path, Path], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = Path(shutil.copytree(small_bundle, tmp_path / "copy.s2pmobile"))
    damage(copy, small_checkpoint)
    rehash(copy)
    assert run(["verify", str(copy)]) == 1
    printed = capsys.readouterr()
    assert "FAILED" in printed.out and "Traceback" not in printed.err


def test_bundle_draws_the_floating_point_picture(place: Path, bundle: Path) -> None:
    prompt = ("a red apple on a blue background", "--seed", "1")
    # A model that is opened for the first time is compared with diffusers, which has a line of its own.
    command(place, "generate", "demo", *prompt, "--steps", "1", "--out", "first.png")
    for source, name in (("demo", "fp.png"), (str(bundle), "quantized.png")):
        result = command(place, "generate", source, *prompt, "--out", name)
        assert result.returncode == 0, result.stderr
        # One line at the end, and one now and then where it takes long.
        assert all(line.startswith("drawing: ") for line in result.stderr.splitlines()) and result.stderr
    fp, quantized = (np.asarray(Image.open(place / name), np.float64) for name in ("fp.png", "quantized.png"))
    assert fp.shape == (64, 64, 3)
    assert fp[..., 2][:8, :8].mean() > fp[..., 0][:8, :8].mean() + 50, "the corner is blue"
    assert fp[28:36, 28:36, 0].mean() > fp[28:36, 28:36, 2].mean() + 50, "the middle is red"
    # 20 dB between pictures is a root mean square difference of 25 of 255 levels: another picture would be far below.
    assert 10 * np.log10(255**2 / np.mean((fp - quantized) ** 2)) > 20


def test_inspect_lists_every_layer(
    place: Path, bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = command_here(place, capsys, monkeypatch, "inspect", bundle, "--json", "layers.json")
    assert "left in float: conv_in, conv_out" in printed
    layers = json.loads((place / "layers.json").read_text())["layers"]
    assert len(layers) == 126 and {layer["weight_bits"] for layer in layers} == {2, 4, 6, 8, 16}


def test_residency_in_a_line_and_in_full(
    place: Path,
    bundle: Path,
    converted: subprocess.CompletedProcess[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (line,) = (line for line in converted.stdout.splitlines() if line.startswith("expected"))
    assert "Apple Neural Engine" in line and "s2p-mobile inspect demo-coreml.s2pmobile --residency" in line
    printed = command_here(place, capsys, monkeypatch, "inspect", bundle, "--residency", "--json", "residency.json")
    assert "between the first and last convolution: 0 cuts" in printed
    programs = {each["program"]: each for each in json.loads((place / "residency.json").read_text())["residency"]["programs"]}
    assert set(programs) == {"unet", "text_encoder", "vae_decoder"}
    short = json.loads((place / "figures.json").read_text())["residency"]["unet"]
    assert short["operators"] == len(programs["unet"]["placements"]) and short["segments"] == len(programs["unet"]["segments"])
    assert short["cuts_inside"] == short["unknown"] == 0
    # The same by operator, for who compares it with what a device does.
    expected = expected_placement(open_bundle(bundle))
    assert {name: [each.model_dump() for each in found] for name, found in expected.items()} == {
        name: program["placements"] for name, program in programs.items()
    }


def test_seconds_by_public_figures(
    place: Path, bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = command_here(place, capsys, monkeypatch, "forecast", bundle, "--device", "iphone15pro", "--json", "seconds.json")
    assert "computed from public figures, not measured" in printed
    figures = json.loads((place / "seconds.json").read_text())
    (chip,) = figures["chips"]
    assert chip["chip"] == "A17 Pro" and chip["call_seconds"] == max(chip["compute_seconds"], chip["weight_seconds"])
    assert {work["program"]: work["runs"] for work in figures["workloads"]} == {"unet": 25, "text_encoder": 2, "vae_decoder": 1}


def test_golden_runs_hold_what_the_format_says(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert len(manifest["golden"]) >= 2
    for index, golden in enumerate(manifest["golden"]):
        tensors = load_file(bundle / golden["path"])
        calls = len(manifest["plan"]["calls"])
        assert tensors["token_ids"].shape == (2, 16) and tensors["initial_latents"].shape == (1, 4, 16, 16)
        assert tensors["noise_pred"].shape[1:] == (2, 4, 16, 16)
        assert index > 0 or list(tensors["noise_pred_calls"]) == list(range(calls))
        assert tensors["image"].shape == tensors["fp_image"].shape == (1, 3, 64, 64)
