"""What goes wrong ends in one line, or in a check that fails."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.coreai.options import CoreAIOptions
from s2p_converters.targets.coreai.requests import Converter, Request
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
