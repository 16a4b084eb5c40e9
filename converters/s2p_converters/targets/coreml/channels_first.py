"""The channels-first form of :mod:`s2p_converters.core.graph.channels_first` in Core ML's operators."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2p_converters.core.checkpoint import QuantizedLayer
from s2p_converters.core.graph.channels_first import ChannelsFirst
from s2p_converters.targets.coreml.layers import CoreMLOperators
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_runtime.quiet import quiet_import

with quiet_import():
    from coremltools.converters.mil import mil
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY, register_torch_op


@torch.library.custom_op("s2p::channel_norm", mutates_args=())
def channel_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over axis 1 of x [B, C, 1, N]; weight and bias [C].

    torch's own normalizes trailing axes only. As an operation of its own it stays one in the program: ``layer_norm`` over axis 1.
    """
    last = x.movedim(1, -1)
    return F.layer_norm(last, weight.shape, weight, bias, eps).movedim(-1, 1).contiguous()


@channel_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


if "s2p.channel_norm" not in _TORCH_OPS_REGISTRY:

    @register_torch_op(torch_alias=["s2p::channel_norm", "s2p.channel_norm"])
    def s2p_channel_norm(context: object, node: object) -> None:
        """``s2p::channel_norm`` as MIL's ``layer_norm``."""
        x, weight, bias, eps = _get_inputs(context, node, expected=4)
        norm = mil.Builder.layer_norm(x=x, axes=[1], gamma=weight, beta=bias, epsilon=eps, name=node.name)  # type: ignore[attr-defined]
        context.add(norm)  # type: ignore[attr-defined]


class ChannelsFirstOperators(ChannelsFirst, CoreMLOperators):
    """Quantized layers of a checkpoint, all of them as convolutions, and split attention; ``layers`` hold convolutions only."""

    def __init__(self, layers: Mapping[str, QuantizedLayer], options: CoreMLOptions) -> None:
        super().__init__(layers, options)
        self.chunks_queries = options.attention_form == "split-chunked"

    def layer_norm(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """LayerNorm of tokens [B, C, 1, N] over axis 1."""
        normed: Tensor = channel_norm(x, norm.weight, norm.bias, self.constant(norm.eps))
        return normed

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See :class:`ChannelsFirst`: scores [B, M, 1, N]."""
        weights = torch.softmax(torch.einsum("bkhc,bchq->bkhq", keys, query), dim=1)
        return torch.einsum("bchk,bkhq->bchq", values, weights)
