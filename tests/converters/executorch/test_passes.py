"""Lowering without idle work writes the same bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.executorch import partitioned, passes
from s2p_converters.targets.executorch.delegates import DELEGATES
from s2p_converters.targets.executorch.options import ExecuTorchOptions
from s2p_converters.targets.executorch.passes import without_idle_work
from s2p_converters.targets.executorch.target import TARGET
from s2p_converters.targets.float_components import decoder_component, prompt_components


class Part(nn.Module):
    """What decoders and text encoders are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(16, 4, 1)
        self.norm, self.linear = nn.GroupNorm(2, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.silu(self.norm(self.first(x)))
        tokens = self.linear(h.flatten(2).transpose(1, 2))
        tokens = (torch.sigmoid(tokens.view(tokens.shape)) * tokens)[:, None]
        tokens = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0]
        h = torch.cat([h, tokens.transpose(1, 2).reshape(h.shape).clone()], dim=1)
        return self.second(nn.functional.interpolate(h, scale_factor=2.0))


class Sought(nn.Module):
    """What passes look for: each of them has something to do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.alone, self.bend = nn.BatchNorm2d(8), nn.PReLU(8)
        self.norm.running_mean = torch.linspace(-1, 1, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(torch.relu(self.norm(self.first(x))))
        h = nn.functional.hardtanh(self.alone(self.bend(h)) + 1)
        return nn.functional.interpolate(torch.cat([h, h], dim=1), scale_factor=2.0, mode="bilinear", align_corners=False)


def run_passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of passes as they run."""
    from executorch.backends.xnnpack import _passes

    seen: list[str] = []
    original = _passes._transform

    def transform(program: Any, chosen: Any, *rest: Any, **more: Any) -> Any:
        seen.append(type(chosen).__name__)
        return original(program, chosen, *rest, **more)

    monkeypatch.setattr(_passes, "_transform", transform)
    return seen


def both(write: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """The passes of either way; their bytes are equal."""
    seen = run_passes(monkeypatch)
    short = write()
    needed = seen.copy()
    seen.clear()
    with monkeypatch.context() as context:
        context.setattr(partitioned, "without_idle_work", contextlib.nullcontext)
        assert write() == short
    return needed, seen


@pytest.mark.parametrize("kind", [Part, Sought])
def test_bytes_are_those_of_all_passes(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module, xnnpack = kind().eval(), DELEGATES["xnnpack"]
    needed, whole = both(lambda: partitioned.lower(module, (torch.randn(1, 4, 4, 4),), xnnpack), monkeypatch)  # type: ignore[arg-type]
    left = {name for name in whole if whole.count(name) > needed.count(name)}
    assert left == set(passes._LOOK_FOR) if kind is Part else "PReLUReshapePass" in needed
    assert len(needed) < 0.7 * len(whole) or kind is Sought


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_encoder", "vae_decoder"])
def test_bytes_of_whole_components(name: str, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = decoder_component(checkpoint, (8, 8)) if name == "vae_decoder" else prompt_components(checkpoint)[0]

    def write() -> bytes:
        TARGET.lower(checkpoint, ExecuTorchOptions(), tmp_path, {"forward": part})
        return (tmp_path / f"{name}.pte").read_bytes()

    both(write, monkeypatch)


def test_nothing_of_it_stays_behind() -> None:
    from executorch.backends.xnnpack import xnnpack_preprocess
    from torch.fx.traceback import NodeSource

    before = xnnpack_preprocess.XNNPACKPassManager
    with pytest.raises(RuntimeError), without_idle_work():
        assert xnnpack_preprocess.XNNPACKPassManager is not before and "__deepcopy__" in vars(NodeSource)
        raise RuntimeError
    assert xnnpack_preprocess.XNNPACKPassManager is before and "__deepcopy__" not in vars(NodeSource)


def test_every_name_is_that_of_a_pass() -> None:
    """A pass that another version calls otherwise would run always; it should be known."""
    from executorch.backends.xnnpack._passes import XNNPACKPassManager

    names = {each.__name__ for each in XNNPACKPassManager(None).passes}  # type: ignore[arg-type]
    assert set(passes._LOOK_FOR) <= names
