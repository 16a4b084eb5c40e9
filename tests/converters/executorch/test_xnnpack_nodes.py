"""Every operator that a program is made of, on the real runtime, against torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2p_converters.core.graph import LayerSpec
from s2p_converters.targets.executorch.xnnpack.operators import FloatSymbolLayer, XnnpackOperators
from s2p_converters.targets.executorch.xnnpack.program import build_program, delegate
from s2p_converters.targets.executorch.xnnpack.subgraph import Subgraph, pack_qcint4
from s2p_converters.targets.executorch.xnnpack.symbols import Symbol, image_input, image_output
from s2p_runtime.errors import S2PError

EPSILON = 2.0**-24
"""Unit roundoff of float32."""


class _Method(nn.Module):
    def __init__(self, graph: Subgraph) -> None:
        super().__init__()
        self.subgraph = delegate(graph)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.subgraph(*inputs)[0]


def run(graph: Subgraph, *inputs: Tensor) -> Tensor:
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(build_program({"forward": (_Method(graph), inputs)}))
    return program.load_method("forward").execute(list(inputs))[0].clone()


def tokens(graph: Subgraph, x: Tensor) -> Symbol:
    return Symbol(graph, graph.input(x.shape), False)


def norm_of(kind: type[nn.Module], *arguments: int) -> nn.Module:
    norm = kind(*arguments).requires_grad_(False)
    norm.weight.normal_()
    norm.bias.normal_()
    return norm


def image_case(apply: Callable[[XnnpackOperators, Symbol], Symbol], x: Tensor) -> Tensor:
    graph = Subgraph()
    image_output(apply(XnnpackOperators(graph, {}, {}, "pinned"), image_input(graph, x.shape)))
    return run(graph, x)


def close(got: Tensor, want: Tensor, roundings: int) -> None:
    """Within some float32 roundings of the largest output."""
    assert got.shape == want.shape
    assert (got - want).abs().max() <= roundings * EPSILON * want.abs().max()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


def test_group_norm_with_a_pending_time_shift() -> None:
    norm = norm_of(nn.GroupNorm, 4, 24)
    x, time = torch.randn(2, 24, 6, 5) + 3, torch.randn(1, 24)
    graph = Subgraph()
    image, row = image_input(graph, x.shape), Symbol(graph, graph.input((1, 24)), False)
    image_output(XnnpackOperators(graph, {}, {}, "pinned").group_norm(image + row[:, :, None, None], norm))
    # 180 elements a group, summed pairwise or in order: at most the square root of that many roundings, twice, and a few more.
    close(run(graph, x, time), norm(x + time[:, :, None, None]), 64)


def test_layer_norm() -> None:
    norm = norm_of(nn.LayerNorm, 40)
    x = torch.randn(2, 7, 40) * 5 - 1
    graph = Subgraph()
    graph.output(XnnpackOperators(graph, {}, {}, "pinned").layer_norm(tokens(graph, x), norm).value)
    close(run(graph, x), norm(x), 64)


def test_attention_over_other_tokens() -> None:
    q, k, v = torch.randn(2, 9, 24), torch.randn(2, 5, 24), torch.randn(2, 5, 24)
    graph = Subgraph()
    symbols = [tokens(graph, t) for t in (q, k, v)]
    graph.output(XnnpackOperators(graph, {}, {}, "pinned").attention(*symbols, 3).value)
    heads = [t.unflatten(2, (3, 8)).transpose(1, 2) for t in (q, k, v)]
    want = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    close(run(graph, q, k, v), want, 64)


@pytest.mark.parametrize("name, function", [("silu", F.silu), ("gelu", F.gelu)])
def test_activations(name: str, function: Callable[[Tensor], Tensor]) -> None:
    x = torch.linspace(-12, 12, 480).reshape(2, 6, 8, 5)
    close(image_case(lambda ops, s: getattr(ops, name)(s), x), function(x), 16)


def test_upsampling_repeats_pixels() -> None:
    x = torch.randn(2, 6, 4, 5)
    assert torch.equal(image_case(lambda ops, s: ops.upsample(s), x), F.interpolate(x, scale_factor=2.0, mode="nearest"))


def test_skip_concatenation_and_tokens_and_back() -> None:
    x, y = torch.randn(2, 6, 4, 5), torch.randn(2, 3, 4, 5)
    graph = Subgraph()
    joined = torch.cat([image_input(graph, x.shape), image_input(graph, y.shape)], dim=1)
    image_output(joined.flatten(2).transpose(1, 2).transpose(1, 2).unflatten(2, (4, 5)))
    assert torch.equal(run(graph, x, y), torch.cat([x, y], dim=1))


@pytest.mark.parametrize(
    "kernel, stride, padding, border",
    [(3, 1, 1, False), (3, 2, 1, False), (3, 2, 0, True), (1, 1, 0, False)],
)
def test_float_convolution(kernel: int, stride: int, padding: int, border: bool) -> None:
    spec = LayerSpec("layer", "conv", 6, 10, kernel, stride, padding)
    weight, bias, x = torch.randn(spec.weight_shape), torch.randn(10), torch.randn(2, 6, 8, 6)
    graph = Subgraph()
    image = image_input(graph, x.shape)
    layer = FloatSymbolLayer(spec, weight.numpy(), bias.numpy())
    image_output(layer(F.pad(image, (0, 1, 0, 1)) if border else image, {}))
    close(run(graph, x), spec.apply(F.pad(x, (0, 1, 0, 1)) if border else x, weight, bias), 64)


def test_four_bit_integers_are_stored_offset_with_the_even_column_low() -> None:
    packed = pack_qcint4(np.array([[-8, 7, 0], [1, -1, 3]], np.int8))
    assert packed.tolist() == [[0xF0, 0x88], [0x79, 0x8B]]


def test_equal_constants_are_stored_once() -> None:
    def size(other: float) -> int:
        graph = Subgraph()
        x = graph.input((1, 64))
        matrix = np.eye(64, dtype=np.float32)
        graph.output(graph.matrix(graph.matrix(x, matrix), matrix * np.float32(other)))
        return len(build_program({"forward": (_Method(graph), (torch.zeros(1, 64),))}))

    assert size(2.0) - size(1.0) >= 64 * 64 * 4


def test_methods_share_their_weights() -> None:
    def method(rows: int) -> tuple[nn.Module, tuple[Tensor]]:
        graph = Subgraph()
        graph.output(graph.matrix(graph.input((rows, 128)), np.arange(128 * 128, dtype=np.float32).reshape(128, 128)))
        return _Method(graph), (torch.zeros(rows, 128),)

    one = len(build_program({"small": method(2)}))
    two = len(build_program({"small": method(2), "large": method(8)}))
    assert two - one < 128 * 128 * 4 / 4


@pytest.mark.parametrize(
    "operation",
    [
        lambda image, tokens: image[0],
        lambda image, tokens: image.flatten(1),
        lambda image, tokens: image.transpose(2, 3),
        lambda image, tokens: tokens.unflatten(1, (2, 3)),
        lambda image, tokens: tokens.chunk(3, -1),
        lambda image, tokens: image + tokens,
        lambda image, tokens: torch.cat([tokens, tokens], dim=1),
        lambda image, tokens: torch.cat([image, image], dim=2),
        lambda image, tokens: F.pad(image, (1, 1, 1, 1)),
        lambda image, tokens: torch.sin(image),
    ],
)
def test_what_has_no_nodes_is_said_in_one_line(operation: Callable[[Symbol, Symbol], object]) -> None:
    graph = Subgraph([])
    image, tokens = image_input(graph, (1, 4, 6, 6)), Symbol(graph, graph.input((1, 6, 4)), False)
    with pytest.raises(S2PError, match=r"^this U-Net needs [^\n]+; convert with `target=coreml` instead$"):
        operation(image, tokens)
