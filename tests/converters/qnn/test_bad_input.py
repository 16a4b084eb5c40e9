"""What goes wrong ends in one line."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from s2p_converters.core.checkpoint import MANIFEST_NAME, UNET_FILE, Checkpoint
from s2p_converters.targets.executorch.options import ExecuTorchOptions
from s2p_converters.targets.executorch.qnn import checks
from s2p_converters.targets.executorch.qnn.onnx_graph import OnnxGraph
from s2p_converters.targets.executorch.qnn.symbols import Symbol
from s2p_converters.targets.ports import tensor
from s2p_mobile.cli.app import run
from s2p_runtime.bundle import file_entries
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.executorch.qnn import engine as engine_module
from s2p_runtime.hosts.executorch.qnn.engine import QnnEngine, require_engine
from s2p_runtime.hosts.executorch.qnn.program import compiled_program
from s2p_runtime.hosts.executorch.qnn.socs import SOCS
from s2p_runtime.hosts.executorch.qnn.worker import Emulator


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"backend": "qnn", "soc": "SM8650,SM1"}, r"unknown SoC 'SM1'; there are SM8550 \(Snapdragon 8 Gen 2\), .*SM8850"),
        ({"backend": "xnnpack", "soc": "SM8650"}, "`soc` needs `backend=qnn`; leave it out for xnnpack"),
        ({"activations": "uint8"}, "`activations` needs `backend=qnn`"),
        ({"backend": "coreml", "runtime": "onnxruntime"}, "`runtime` needs `backend=qnn`"),
        ({"backend": "qnn", "activations": "float"}, "unknown activations 'float'; choose from uint16, uint8"),
        ({"backend": "qnn", "size": "64x64"}, "qnn keeps the weights of every size apart"),
    ],
)
def test_options(options: dict[str, str], line: str) -> None:
    with pytest.raises(S2PError, match=line):
        ExecuTorchOptions(**options)


def test_chips_are_named_once() -> None:
    assert ExecuTorchOptions(backend="qnn", soc=["SM8750,SM8650", "SM8750"]).socs == ("SM8750", "SM8650")
    assert ExecuTorchOptions(backend="qnn").socs == ("SM8650",)


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``refused(folder of a checkpoint, *words)``: the one line of a ``convert`` for the NPU that cannot be. It leaves neither an
    output nor temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    def demand(checkpoint: Path, *words: str) -> str:
        out = tmp_path / "made" / "out.s2pmobile"
        command = ["convert", str(checkpoint), "--target", "executorch", "--backend", "qnn", "--out", str(out), "--no-cache"]
        assert run([*command, *words]) == 2
        said = capfd.readouterr().err
        (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in said and said.rstrip().endswith(line)
        assert not out.parent.exists() or list(out.parent.iterdir()) == []
        assert list((tmp_path / "temporary").iterdir()) == []
        return line

    return demand


Refused = Callable[..., str]


def absent(_: str) -> str:
    """What tells of a package that is not installed."""
    raise engine_module.PackageNotFoundError


def test_what_the_command_refuses_at_once(checkpoint: Checkpoint, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(checkpoint.folder, "--soc", "SM1").startswith("error: unknown SoC 'SM1'; there are SM8550 ")
    with monkeypatch.context() as patched:
        patched.setattr(engine_module, "version", absent)
        assert refused(checkpoint.folder).endswith("is not installed; run pip install 's2p-mobile[qnn]'")
    with monkeypatch.context() as patched:
        patched.setattr(engine_module.platform, "machine", lambda: "aarch64")
        line = "exist for Linux on x86_64, not for Linux on aarch64; use such a machine, or --backend xnnpack"
        assert refused(checkpoint.folder).endswith(line)


def test_the_compiler_is_ended_in_the_middle_of_a_conversion(
    checkpoint: Checkpoint, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system does when memory is short. The first component is compiled really, so that there is something to leave
    behind."""
    stand_in = tmp_path / "python"
    stand_in.write_text(f'#!/bin/sh\nmkdir "$0.first" 2>&- && exec {sys.executable} "$@"\nread line\nkill -KILL $$\n')
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    line = refused(checkpoint.folder)
    assert "ended while it ran the VAE decoder for SM8650 (by signal SIGKILL); is there enough memory?" in line
    assert (tmp_path / "python.first").is_dir()


@pytest.mark.slow
def test_a_scale_that_the_chip_cannot_multiply_by(checkpoint: Checkpoint, refused: Refused, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint.folder, tmp_path / "checkpoint"))
    name = next(iter(checkpoint.layers))
    tensors = dict(load_file(folder / UNET_FILE))
    # Beside a channel that gives large numbers, the smallest that float16 has.
    tensors[f"{name}.weight_scale"][:2] = np.float16(6e-8), np.float16(1.0)
    save_file(tensors, folder / UNET_FILE)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    manifest["files"] = {path: entry.model_dump() for path, entry in file_entries(folder, MANIFEST_NAME).items()}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    line = (
        f"error: layer {name} has a channel scale of 6.0e-08, too small for the chip beside its output; use --backend xnnpack"
    )
    assert refused(folder) == line


def test_a_machine_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "version", absent)
    with pytest.raises(S2PError, match=r"need onnxruntime-qnn, which is not installed; run pip install 's2p-mobile\[qnn\]'"):
        require_engine()
    monkeypatch.setattr(engine_module.platform, "machine", lambda: "aarch64")
    with pytest.raises(S2PError, match="exist for Linux on x86_64, not for Linux on aarch64"):
        require_engine()


@pytest.mark.parametrize("signal", ["KILL", "ABRT"])
def test_the_compiler_is_ended(signal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for Python that ends as a compiler does that asks for too much memory."""
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!/bin/sh\nread line\nkill -{signal} $$\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    line = rf"ended while it ran the U-Net \(by signal SIG{signal}\); is there enough memory\?"
    with pytest.raises(S2PError, match=line):
        QnnEngine().compile("the U-Net", tmp_path / "a.onnx", tmp_path / "a.qnn", SOCS["SM8650"], [])


def test_a_compiler_without_memory_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says when it catches that itself; to ask for a reason would be to compile all of it once more."""
    asked = []

    def session(*_: object, **__: object) -> None:
        asked.append(1)
        raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: std::bad_alloc")

    monkeypatch.setattr(Emulator, "_session", session)
    with pytest.raises(ValueError, match="std::bad_alloc") as caught:
        Emulator().compile({"model": str(tmp_path / "a.onnx"), "context": str(tmp_path / "a.qnn"), "inputs": []})
    assert len(asked) == 1
    error = QnnEngine().refused("the U-Net", str(caught.value))
    assert str(error).startswith("Qualcomm's compiler and emulator ran out of memory with the U-Net; close other programs")


def test_an_operator_that_the_npu_does_not_take_is_named(engine: QnnEngine, tmp_path: Path) -> None:
    port = tensor("x", (1, 8))
    with OnnxGraph(tmp_path / "m.onnx") as graph:
        x = Symbol(graph, graph.input(port), port.shape)
        graph.output(port.model_copy(update={"name": "y"}), x.apply("Erf", label="some.layer").value)
    with pytest.raises(S2PError, match=r"the NPU does not take some.layer/Erf.*: "):
        engine.compile("the U-Net", tmp_path / "m.onnx", tmp_path / "m.qnn", SOCS["SM8650"], [port])
    assert not (tmp_path / "m.qnn").exists()


def test_checkpoints_that_the_chip_cannot_hold(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ExecuTorchOptions(backend="qnn")
    name, layer = next(iter(checkpoint.layers.items()))
    wide = replace(checkpoint, layers={**checkpoint.layers, name: replace(layer, weight_bits=16)})
    with pytest.raises(S2PError, match=f"layer {name} has 16-bit weights, and the chip multiplies 4 or 8"):
        checks.check_conversion(wide, options)
    plain = {name: replace(each, activation_scale=None, activation_bits=None) for name, each in checkpoint.layers.items()}
    with pytest.raises(S2PError, match="this checkpoint has no 8-bit activations"):
        checks.check_conversion(replace(checkpoint, layers=plain), ExecuTorchOptions(backend="qnn", activations="uint8"))
    monkeypatch.setattr(checks, "ADDRESS_SPACE", 1000)
    with pytest.raises(S2PError, match=r"do not fit the chip's address space in 1 programs; pass `chunks=\d+`"):
        checks.check_conversion(checkpoint, options)


class _Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x


def test_other_programs_are_refused(tmp_path: Path) -> None:
    from executorch.exir import to_edge

    (tmp_path / "a.pte").write_bytes(b"no program")
    with pytest.raises(S2PError, match=r"a\.pte is no program for Snapdragon's NPU"):
        compiled_program(tmp_path / "a.pte")
    (tmp_path / "unet.pte").write_bytes(to_edge(torch.export.export(_Sum(), (torch.ones(2),))).to_executorch().buffer)
    with pytest.raises(S2PError, match=r"unet\.pte is no program for Snapdragon's NPU"):
        compiled_program(tmp_path / "unet.pte")
