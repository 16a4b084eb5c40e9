"""Opening a bundle: a good one, and everything that can be wrong with one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2p_runtime.bundle import MANIFEST_NAME, LatentSpec, file_entries, open_bundle
from s2p_runtime.component import Component
from s2p_runtime.errors import S2PError

FILES = {
    "unet.mlpackage/Manifest.json": b"{}",
    "unet.mlpackage/Data/weights/weight.bin": bytes(range(256)),
    "vae_decoder.pte": b"program",
    "tokenizer/vocab.json": b"{}",
    "tokenizer/merges.txt": b"#version: 0.2\n",
    "golden/first.safetensors": b"tensors",
}
SAMPLE = {"name": "sample", "dtype": "float32", "shape": [2, 4, 8, 8]}


def document() -> dict[str, Any]:
    component = {"precision": "float16", "inputs": [SAMPLE], "outputs": [SAMPLE], "backend": "test"}
    return {
        "format": "s2p-bundle",
        "version": 1,
        "name": "demo",
        "family": "sd1",
        "target": "coreml",
        "producer": "test 1",
        "checkpoint_sha256": "0" * 64,
        "components": {
            "unet": {"path": "unet.mlpackage", **component},
            "vae_decoder": {"path": "vae_decoder.pte", **component},
        },
        "chunks": [],
        "plan": {
            "scheduler": "DDIMScheduler",
            "steps": 1,
            "prediction_type": "epsilon",
            "initial_scale": 1.0,
            "calls": [{"timestep": 999, "input_scale": 1.0, "states": [[0, 1.0]], "outputs": [[0, -0.5]], "noise": 0.0}],
        },
        "guidance": 4.0,
        "latents": {
            "channels": 4,
            "height": 8,
            "width": 8,
            "scaling_factor": 0.18215,
            "shift_factor": 0.0,
            "mean": None,
            "std": None,
        },
        "sizes": [{"width": 64, "height": 64, "latent_width": 8, "latent_height": 8, "method": None, "check": None}],
        "tokenizer": {
            "kind": "clip",
            "vocab": "tokenizer/vocab.json",
            "merges": "tokenizer/merges.txt",
            "max_length": 16,
            "bos_id": 0,
            "eos_id": 1,
            "unk_id": 1,
            "pad_id": 1,
            "added_tokens": [],
        },
        "conditioning": None,
        "quantization": {
            "method": "s2p",
            "recipe": "w4a8",
            "average_weight_bits": 4.0,
            "unet_bytes": 10,
            "unet_download_bytes": 8,
            "unet_fp32_bytes": 80,
            "layers": [],
        },
        "golden": [{"id": "first", "prompt": "a fox", "seed": 2**64 - 1, "path": "golden/first.safetensors"}],
        "files": {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in FILES.items()},
    }


def write(folder: Path, manifest: dict[str, Any]) -> None:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "demo.s2pmobile"
    folder.mkdir()
    write(folder, document())
    return folder


def refused(folder: Path, message: str) -> None:
    with pytest.raises(S2PError) as caught:
        open_bundle(folder)
    text = str(caught.value)
    assert message in text and "; " in text and "\n" not in text


def test_a_good_bundle(folder: Path) -> None:
    bundle = open_bundle(folder)
    assert bundle.manifest.golden[0].seed == 2**64 - 1
    assert bundle.component("unet")[1] == folder / "unet.mlpackage"
    assert bundle.path("golden/first.safetensors").read_bytes() == b"tensors"
    with pytest.raises(S2PError, match="no component 'text_encoder'; it has unet, vae_decoder"):
        bundle.component("text_encoder")
    with pytest.raises(S2PError, match="outside"):
        bundle.path("../x")


def test_file_entries_are_those_of_the_manifest(folder: Path) -> None:
    found = {name: entry.model_dump() for name, entry in file_entries(folder).items()}
    assert found == document()["files"]


def test_no_bundle(tmp_path: Path, folder: Path) -> None:
    refused(tmp_path / "none", "is not a folder")
    refused(folder / MANIFEST_NAME, "is not a folder")
    refused(tmp_path, f"has no {MANIFEST_NAME}")


@pytest.mark.parametrize("name", list(FILES))
def test_every_file_is_checked(folder: Path, name: str) -> None:
    path = folder / name
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    refused(folder, f"{name} in demo.s2pmobile has {len(data) - 1} bytes instead of {len(data)}")
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    refused(folder, f"{name} in demo.s2pmobile was altered")
    path.unlink()
    refused(folder, f"lacks {name}")
    path.mkdir()
    refused(folder, f"lacks {name}")


def test_links_out_of_the_bundle(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(FILES["vae_decoder.pte"])
    (folder / "vae_decoder.pte").unlink()
    (folder / "vae_decoder.pte").symlink_to(outside)
    refused(folder, "link out of its folder")


def edit(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    manifest = json.loads(json.dumps(document()))
    change(manifest)
    return manifest


ENTRY = {"sha256": "0" * 64, "bytes": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(version=2), "has format version 2, this s2p-mobile reads 1; update"),
        (lambda m: m.update(format="s2p-report"), "not of format"),
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m.pop("plan"), "plan"),
        (lambda m: m.update(guidance=float("nan")), "guidance"),
        (lambda m: m.update(guidance="4"), "guidance"),
        (lambda m: m.update(target="Core ML"), "target"),
        (lambda m: m.update(checkpoint_sha256="0" * 63), "checkpoint_sha256"),
        (lambda m: m["plan"]["calls"][0].update(states=[[1, 1.0]]), "row of call 0 refers to call 1"),
        (lambda m: m["latents"].update(channels=0), "latents.channels"),
        (lambda m: m["latents"].update(scaling_factor=0), "latents.scaling_factor"),
        (lambda m: m["components"]["unet"].update(path="other.mlpackage"), "has no file other.mlpackage"),
        (lambda m: m["components"]["unet"].update(path="unet.mlpack"), "has no file unet.mlpack"),
        (lambda m: m["components"]["unet"]["inputs"][0].update(dtype="bfloat16"), "dtype"),
        (lambda m: m["tokenizer"].update(vocab="vocab.json"), "file vocab.json is not listed"),
        (lambda m: m["tokenizer"].update(max_length=1), "tokenizer.max_length"),
        (lambda m: m["golden"][0].update(path="golden/second.safetensors"), "is not listed"),
        (lambda m: m["golden"][0].update(seed=2**64), "golden.0.seed"),
        (lambda m: m["golden"][0].update(seed=-1), "golden.0.seed"),
        (lambda m: m["golden"][0].update(id="../x"), "golden.0.id"),
        (lambda m: m["files"]["vae_decoder.pte"].update(sha256="A" * 64), "sha256"),
        (lambda m: m["files"]["vae_decoder.pte"].update(bytes=-1), "bytes"),
        (lambda m: m["files"].update({"../outside": ENTRY}), "outside its folder"),
        (lambda m: m["files"].update({"/etc/hostname": ENTRY}), "outside its folder"),
        (lambda m: m["files"].update({"": ENTRY}), "outside its folder"),
        (lambda m: m["files"].update({"a\\b": ENTRY}), "outside its folder"),
        (lambda m: m["files"].update({"n" * 300: ENTRY}), "cannot read"),
        (lambda m: m["files"].update({"missing": ENTRY}), "lacks missing"),
    ],
)
def test_bad_manifests(folder: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    write(folder, edit(change))
    refused(folder, message)


def test_a_component_path_that_leaves(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pte").write_bytes(b"x")
    entry = {"sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1}
    manifest = edit(lambda m: (m["components"]["unet"].update(path="../x.pte"), m["files"].update({"../x.pte": entry})))
    write(folder, manifest)
    refused(folder, "outside its folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(folder: Path) -> None:
    (folder / "vae_decoder.pte").chmod(0)
    refused(folder, "cannot read vae_decoder.pte")


def test_file_entries_leave_out_the_manifest_that_is_named(tmp_path: Path) -> None:
    for name in ("s2p.json", "manifest.json"):
        (tmp_path / name).write_text(name)
    assert file_entries(tmp_path, "s2p.json") == {"manifest.json": file_entries(tmp_path, "s2p.json")["manifest.json"]}
    assert set(file_entries(tmp_path)) == {"s2p.json"}


def test_decoder_input_divides_then_shifts() -> None:
    # The numbers of Stable Diffusion 3's VAE, the usual one with a shift.
    spec = LatentSpec(channels=16, height=2, width=3, scaling_factor=1.5305, shift_factor=0.0609, mean=None, std=None)
    latents = np.random.default_rng(0).normal(size=spec.shape).astype(np.float32)
    assert spec.shape == latents.shape == (1, 16, 2, 3)
    got = spec.decoder_input(latents)
    assert got.dtype == np.float32
    # Two roundings to float32 of numbers below 4, and those of the two factors.
    np.testing.assert_allclose(got, latents.astype(np.float64) / 1.5305 + 0.0609, rtol=0, atol=4 * 4 * 2.0**-24)


def test_decoder_input_takes_the_statistics_of_every_channel() -> None:
    # The numbers of Playground v2.5's VAE: x * std / 0.5 + mean, each of its own channel.
    mean, std = (-1.6574, 1.886, -1.383, 2.5155), (8.4927, 5.9022, 6.5498, 5.2299)
    spec = LatentSpec(channels=4, height=2, width=3, scaling_factor=0.5, shift_factor=0.0, mean=mean, std=std)
    latents = np.random.default_rng(0).normal(size=(2, 4, 2, 3)).astype(np.float32)
    expected = np.stack([latents[:, c].astype(np.float64) * std[c] / 0.5 + mean[c] for c in range(4)], axis=1)
    # Three roundings to float32 of numbers below 64, and those of the two factors.
    np.testing.assert_allclose(spec.decoder_input(latents), expected, rtol=0, atol=5 * 64 * 2.0**-24)


def test_statistics_are_of_every_channel() -> None:
    with pytest.raises(ValueError, match="std: 3 numbers for 4 channels"):
        LatentSpec(channels=4, height=2, width=3, scaling_factor=1.0, shift_factor=0.0, mean=None, std=(1.0, 1.0, 1.0))


def test_a_program_without_a_compute_unit_is_written_as_before_the_field() -> None:
    component = Component.model_validate(
        {"path": "unet.pte", "precision": "float32", "inputs": [], "outputs": [], "backend": "x"}
    )
    chosen = component.model_copy(update={"compute_unit": "gpu"})
    assert list(json.loads(component.model_dump_json())) == ["path", "precision", "inputs", "outputs", "backend"]
    assert json.loads(chosen.model_dump_json())["compute_unit"] == "gpu"
    for written in (component, chosen):
        assert Component.model_validate_json(written.model_dump_json(), strict=True) == written


def test_manifests_tell_the_compute_unit_of_each_program() -> None:
    parts = open_bundle(Path(__file__).parents[1] / "fixtures/chunked.s2pmobile").manifest.components
    units = {name: part.compute_unit for name, part in parts.items() if part.compute_unit is not None}
    assert units == {"unet_1": "neural-engine", "unet_2": "gpu", "vae_decoder": "all"}
    assert {name: part.chips for name, part in parts.items() if part.chips is not None} == {
        "text_encoder": {"SM8650": "text_encoder.pte"}
    }
