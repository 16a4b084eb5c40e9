"""What U-Nets go without, against everything that coremltools does by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.coreml import package
from s2p_converters.targets.coreml.components import convert_unet
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_converters.targets.coreml.passes import common_passes, unet_passes


def every_pass(weights_pass: str, half: bool) -> Any:
    """coremltools' own list, with ours before the one that makes values float16."""
    passes = common_passes()
    assert len(passes.passes) > 2 * len(unet_passes(weights_pass, half).passes)
    passes.insert_pass(passes.passes.index("common::add_fp16_cast") if half else len(passes.passes), weights_pass)
    return passes


@pytest.mark.parametrize(
    "settings",
    [
        {"compute_unit": "neural-engine"},
        pytest.param({"compute_unit": "gpu", "precision": "fp32"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_left_out_passes_change_nothing(
    checkpoint: Checkpoint,
    converted: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
) -> None:
    short = converted(**settings)
    monkeypatch.setattr(package, "unet_passes", every_pass)
    options = CoreMLOptions(**settings)  # type: ignore[arg-type]
    whole = tmp_path / convert_unet(checkpoint, options, tmp_path).components["unet"].path
    files = {path.relative_to(whole) for path in whole.rglob("*") if path.is_file()}
    assert files == {path.relative_to(short) for path in short.rglob("*") if path.is_file()}
    for name in files:
        assert (whole / name).read_bytes() == (short / name).read_bytes(), name


class Writes(nn.Module):
    """Changes a value in place, which an ML program cannot."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y.add_(1)
        return y


class Composite(nn.Module):
    """Has an operator that coremltools does not know: it is made of others."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (2, 2)).flatten(1) * 2 + 1


class Plain(nn.Module):
    """Only what coremltools knows."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return torch.cat([first, second], dim=1) * 2 + 1


@pytest.mark.parametrize(
    ("module", "again"), [(Writes(), True), (Composite(), True), (Plain(), False)], ids=["in place", "composite", "plain"]
)
def test_only_what_coremltools_does_not_take_is_traced_again(
    module: nn.Module, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.arange(8.0).reshape(2, 4)
    program = torch.export.export(module, (x,))
    traced = []
    decompose = torch.export.ExportedProgram.run_decompositions

    def watched(self: Any, table: Any) -> Any:
        traced.append(self)
        return decompose(self, table)

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", watched)
    aten = package.in_aten(program)
    assert aten.dialect == "ATEN" and program.dialect == "TRAINING"
    assert (program in traced) == again
    torch.testing.assert_close(aten.module()(x), x * 2 + 1, rtol=0, atol=0)
