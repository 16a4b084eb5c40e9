"""What goes wrong ends in one line, or in a check that fails."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from s2p_converters.core.checkpoint import ACTIVATIONS_FILE, Checkpoint, QuantizedLayer
from s2p_converters.targets.coreai.options import CoreAIOptions
from s2p_converters.targets.coreai.requests import Converter, Request
from s2p_converters.targets.coreai.weights import emitted_weight
from s2p_converters.targets.registry import TARGETS
from s2p_mobile.cli.app import run
from s2p_runtime.bundle import MANIFEST_NAME, BundleManifest, open_bundle
from s2p_runtime.contract import write_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.coreai import engine
from s2p_runtime.hosts.coreai.constants import read_constants
from s2p_runtime.registry import BuiltIn, Registry


def request(checkpoint: Checkpoint, folder: Path) -> Request:
    return Request(
        checkpoint=checkpoint.folder,
        options={},
        folder=folder,
        name="unet",
        title="U-Net",
        path="unet.aimodel",
        shapes={"main": (8, 8)},
    )


def test_the_library_ends_the_process(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for Python that aborts as Apple's library does."""
    stand_in = tmp_path / "python"
    stand_in.write_text("#!/bin/sh\nread line\necho abort >&2\nkill -ABRT $$\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    with pytest.raises(S2PError, match=r"Apple's library ended while it converted the U-Net \(by signal SIGABRT\)"):
        Converter().ask(request(checkpoint, tmp_path))


def test_the_process_says_what_is_wrong(checkpoint: Checkpoint, tmp_path: Path) -> None:
    converter = Converter()
    with pytest.raises(S2PError, match=r"has no s2p\.json"):
        converter.ask(request(checkpoint, tmp_path).model_copy(update={"checkpoint": tmp_path}))
    converter.close()


def test_the_runtime_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text("#!/bin/sh\nread line\nkill -SEGV $$\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    with pytest.raises(S2PError, match=r"Apple's runtime ended while it ran unet \(by signal SIGSEGV\)"):
        engine.Engine().load("unet", tmp_path, "main")


def test_the_runtime_never_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text("#!/bin/sh\nexec sleep 60\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    with pytest.raises(S2PError, match="did not answer for unet within 1 seconds"):
        engine.Engine(time_limit=1.0).load("unet", tmp_path, "main")


def test_the_extra_is_missing() -> None:
    registry: Registry[object] = Registry(
        "target", "none", {"x": BuiltIn("os:name", "s2p-mobile[x]", ("not_there",), "only on Macs")}
    )
    with pytest.raises(
        S2PError, match=r"needs not_there, which is not installed; run pip install 's2p-mobile\[x\]' \(only on Macs\)"
    ):
        registry.get("x")


def test_convert_without_the_extra(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TARGETS, "_loaded", {})
    monkeypatch.setitem(sys.modules, "coreai_torch", None)
    out = tmp_path / "out.s2pmobile"
    assert run(["convert", str(checkpoint.folder), "--target", "coreai", "--out", str(out)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(
        "error: target 'coreai' needs coreai_torch, which is not installed; run pip install 's2p-mobile[coreai]'"
    )
    assert line.endswith("(Apple's packages exist for Linux on x86_64 and for Macs with Apple's chip)")
    assert not out.exists()


def test_a_machine_without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> str:
        raise engine.PackageNotFoundError

    monkeypatch.setattr(engine, "version", absent)
    monkeypatch.setattr(engine.platform, "system", lambda: "Windows")
    with pytest.raises(S2PError, match="do not exist for Windows"):
        engine.require_engine()


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(S2PError, match="`chunks` splits the U-Net for one size"):
        CoreAIOptions(chunks=2, size=((64, 64),))


LAST_NORMAL, LARGEST = 2.0**-14, 65504.0
"""The ends of float16's normal numbers."""


def with_inputs(layer: QuantizedLayer, scale: float) -> QuantizedLayer:
    assert layer.activation_scale is not None
    return replace(layer, activation_scale=np.full_like(layer.activation_scale, scale))


BEYOND_FLOAT16: dict[str, tuple[Callable[[QuantizedLayer], QuantizedLayer], str]] = {
    "small inputs": (lambda layer: with_inputs(layer, LAST_NORMAL / 2), "has an activation scale outside the float16 range"),
    "large inputs": (lambda layer: with_inputs(layer, 1e6), "has an activation scale outside the float16 range"),
    # Sums of this layer's integers leave no room below 2^3, so the factor behind it is at least eight times the scale.
    "large scales": (lambda layer: replace(layer, scale=np.full_like(layer.scale, LARGEST / 4)), "can overflow float16"),
}


@pytest.mark.parametrize("change", BEYOND_FLOAT16)
def test_a_layer_that_float16_cannot_hold(change: str, checkpoint: Checkpoint) -> None:
    name, layer = next((name, layer) for name, layer in checkpoint.layers.items() if layer.activation_scale is not None)
    changed, reason = BEYOND_FLOAT16[change]
    assert emitted_weight(layer, CoreAIOptions()).layer is layer
    with pytest.raises(S2PError, match=rf"layer {re.escape(name)} {reason}; pass `precision=fp32`"):
        emitted_weight(changed(layer), CoreAIOptions())
    # float32 has the room.
    emitted_weight(changed(layer), CoreAIOptions(precision="fp32"))


def test_a_scale_at_the_end_of_float16_is_held(checkpoint: Checkpoint) -> None:
    layer = next(layer for layer in checkpoint.layers.values() if layer.activation_scale is not None)
    emitted_weight(with_inputs(layer, LAST_NORMAL), CoreAIOptions())


def test_convert_says_which_layer_does_not_fit(
    checkpoint: Checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "checkpoint", tmp_path / "out.s2pmobile"
    shutil.copytree(checkpoint.folder, folder)
    tensors = load_file(folder / ACTIVATIONS_FILE)
    tensors["scales"][:, 0] = LAST_NORMAL / 2
    save_file(tensors, folder / ACTIVATIONS_FILE)
    data = (folder / ACTIVATIONS_FILE).read_bytes()
    manifest = json.loads((folder / "s2p.json").read_text())
    manifest["files"][ACTIVATIONS_FILE] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / "s2p.json").write_text(json.dumps(manifest))
    assert run(["convert", str(folder), "--target", "coreai", "--out", str(out)]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    first = next(name for name, layer in checkpoint.layers.items() if layer.activation_scale is not None)
    wanted = f"error: layer {first} has an activation scale outside the float16 range; pass --precision fp32"
    assert errors == [wanted] and not out.exists()


def test_operations_that_no_program_has() -> None:
    from s2p_converters.targets.coreai.builder import Builder
    from s2p_converters.targets.coreai.symbols import Symbol
    from s2p_converters.targets.ports import tensor

    def traced(body: Callable[[Any], Any]) -> None:
        builder = Builder(False)
        port = tensor("x", (2, 4))
        builder.graph("main", [port], [port], lambda value: [body(Symbol(builder, value)).value])

    traced(lambda x: x[:, :, None, None].reshape(2, 4))
    with pytest.raises(S2PError, match="this U-Net needs the function relu, which the Core AI programs do not have"):
        traced(torch.relu)
    with pytest.raises(S2PError, match=r"needs indexing with 0, which"):
        traced(lambda x: x[0])
    with pytest.raises(S2PError, match="needs the function pad, which"):
        traced(lambda x: torch.nn.functional.pad(x, (1, 1)))


@pytest.fixture
def copy(coreai_bundle: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy.s2pmobile"
    shutil.copytree(coreai_bundle, folder)
    return folder


def mend(folder: Path, path: str) -> None:
    """Make every checksum that covers a file fit it again."""
    program = folder / "unet.aimodel" / "main.mlirb"
    (folder / "unet.aimodel" / "main.hash").write_bytes(hashlib.sha256(program.read_bytes()).digest())
    manifest = open_manifest(folder)
    files = dict(manifest.files)
    for name in (path, "unet.aimodel/main.hash"):
        files[name] = files[name].model_copy(update={"sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()})
    write_contract(folder / MANIFEST_NAME, manifest.model_copy(update={"files": files}))


def open_manifest(folder: Path) -> BundleManifest:
    return BundleManifest.model_validate_json((folder / MANIFEST_NAME).read_text(encoding="utf-8"))


def test_a_changed_byte_is_refused(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = copy / "unet.aimodel" / "main.mlirb"
    data = bytearray(program.read_bytes())
    data[len(data) // 2] ^= 1
    program.write_bytes(data)
    assert run(["verify", str(copy)]) == 2
    assert "unet.aimodel/main.mlirb" in capfd.readouterr().err


@pytest.mark.parametrize("where", ["table", "weight", "middle", "head"])
def test_a_changed_byte_with_the_hash_mended(where: str, copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = copy / "unet.aimodel" / "main.mlirb"
    data = bytearray(program.read_bytes())
    stored = {one.name: one.data.tobytes() for one in read_constants(copy / "unet.aimodel") if one.name}
    # The last row of the table, which no call of the golden runs looks up alone; a weight in the middle of a layer.
    place = {
        "table": lambda: data.find(stored["step_table"]) + len(stored["step_table"]) - 1,
        "weight": lambda: data.find(stored["conv_out.weight"]) + 7,
        "middle": lambda: len(data) // 3,
        "head": lambda: 40,
    }[where]()
    assert place > 7
    data[place] ^= 0x10
    program.write_bytes(data)
    mend(copy, "unet.aimodel/main.mlirb")
    status = run(["verify", str(copy)])
    said = capfd.readouterr()
    assert status in (1, 2), said.out
    if status == 2:
        assert len([line for line in said.err.splitlines() if line.startswith("error:")]) == 1


def test_a_program_cut_short(copy: Path) -> None:
    program = copy / "unet.aimodel" / "main.mlirb"
    os.truncate(program, program.stat().st_size // 2)
    (copy / "unet.aimodel" / "main.hash").write_bytes(hashlib.sha256(program.read_bytes()).digest())
    backend = engine.Engine()
    with pytest.raises(S2PError, match="Apple's runtime"):
        backend.load("unet", copy / "unet.aimodel", "main")
    backend.close()


def test_a_file_is_gone(copy: Path) -> None:
    from s2p_runtime.hosts.coreai.backend import CoreAIBackend

    bundle = open_bundle(copy)
    (copy / "unet.aimodel" / "main.hash").unlink()
    with pytest.raises(S2PError, match=r"lacks main\.hash"):
        CoreAIBackend(bundle, "main").load("unet")
