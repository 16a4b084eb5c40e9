"""Float modules through the stock partitioners."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.executorch.delegates import DELEGATES
from s2p_converters.targets.executorch.options import ExecuTorchOptions
from s2p_converters.targets.executorch.partitioned import lower
from s2p_converters.targets.executorch.target import TARGET
from s2p_converters.targets.executorch.xnnpack.inspection import read_program
from s2p_runtime.errors import S2PError


class _Attention(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("mask", torch.ones(6, 6, dtype=torch.bool).tril(1))

    def forward(self, x: Tensor) -> Tensor:
        mask = self.mask if self.kind == "boolean" else torch.zeros(6, 6).masked_fill(~self.mask, -torch.inf)
        given = None if self.kind in ("none", "causal") else mask
        return F.scaled_dot_product_attention(x, x * 0.5, x + 1, given, is_causal=self.kind == "causal")


@pytest.mark.parametrize("kind", ["none", "causal", "boolean", "additive"])
def test_attention_with_every_kind_of_mask_equals_torch(kind: str) -> None:
    from executorch.runtime import Runtime

    x = torch.randn(1, 2, 6, 8, generator=torch.Generator().manual_seed(4))
    program = Runtime.get().load_program(lower(_Attention(kind), (x,), DELEGATES["xnnpack"]))
    got = program.load_method("forward").execute([x])[0].clone()
    want = _Attention(kind)(x)
    # Two sums of eight products and a softmax over six: some tens of float32 roundings.
    assert (got - want).abs().max() <= 64 * 2.0**-24 * want.abs().max()


@pytest.mark.parametrize(
    "backend, name", [pytest.param("vulkan", "VulkanBackend", marks=pytest.mark.slow), ("coreml", "CoreMLBackend")]
)
def test_other_backends_are_built_and_described(backend: str, name: str) -> None:
    summary = read_program(lower(_Attention("causal"), (torch.zeros(1, 2, 6, 8),), DELEGATES[backend]))
    assert set(summary.delegates) == {name}


def test_core_ais_delegate_is_built_where_it_is_there() -> None:
    pytest.importorskip("coreai_torch", reason="Apple's coreai-torch is not installed")
    if find_spec("executorch.backends.apple.coreai") is None:
        with pytest.raises(S2PError, match="executorch here lacks its coreai backend"):
            lower(_Attention("none"), (torch.zeros(1, 2, 6, 8),), DELEGATES["coreai"])
        return
    summary = read_program(lower(_Attention("none"), (torch.zeros(1, 2, 6, 8),), DELEGATES["coreai"]))
    assert set(summary.delegates) == {"CoreAIBackend"}


def test_core_ais_delegate_is_called_experimental_at_conversion(checkpoint: Checkpoint) -> None:
    after = TARGET.notes(checkpoint, ExecuTorchOptions(backend="coreai")).after
    assert any("delegate is experimental" in line for line in after) and any("in float" in line for line in after)
    assert TARGET.notes(checkpoint, ExecuTorchOptions()).after == ()


@pytest.mark.parametrize("options", [{"backend": "metal"}, {"scheme": "sixteen"}])
def test_unknown_options_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(S2PError, match="choose from"):
        ExecuTorchOptions(**options)  # type: ignore[arg-type]
