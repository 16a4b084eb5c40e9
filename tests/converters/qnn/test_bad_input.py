"""What goes wrong ends in one line."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.executorch.options import ExecuTorchOptions
from s2p_converters.targets.executorch.qnn import checks
from s2p_converters.targets.executorch.qnn.onnx_graph import OnnxGraph
from s2p_converters.targets.executorch.qnn.symbols import Symbol
from s2p_converters.targets.ports import tensor
from s2p_mobile.cli.app import run
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.executorch.qnn import engine as engine_module
from s2p_runtime.hosts.executorch.qnn.engine import QnnEngine, require_engine
from s2p_runtime.hosts.executorch.qnn.program import compiled_program
from s2p_runtime.hosts.executorch.qnn.socs import SOCS


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


def test_the_command_says_it_in_a_line_and_leaves_nothing(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.s2pmobile"
    words = ["convert", str(checkpoint.folder), "--target", "executorch", "--backend", "qnn", "--soc", "SM1", "--out", str(out)]
    assert run(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: unknown SoC 'SM1'; there are ")
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> str:
        raise engine_module.PackageNotFoundError

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
