"""The U-Net's operators in the shape that the Neural Engine computes in.

Tokens lie as [B, C, 1, N] from the first transformer block to the last: linear layers are convolutions with a kernel of one position,
norms and gates work on channels, attention goes head by head with its softmax over the channel axis. What the engine asks for:
Apple's "Deploying Transformers on the Apple Neural Engine" and the rules for authors in apple/coreai-models.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2p_converters.core.graph import LayerSpec
from s2p_converters.targets.coreml.layers import CoreMLOperators
from s2p_runtime.quiet import quiet_import

with quiet_import():
    from coremltools.converters.mil import mil
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY, register_torch_op

QUERIES_AT_ONCE = 512
"""Of a head whose scores are many. Apple's own split attention takes as many (ml-stable-diffusion's SPLIT_EINSUM_V2)."""
SCORES_AT_ONCE = QUERIES_AT_ONCE * 4096
"""Scores of one head that are made at once: those of 512 queries at the 4,096 positions of a 64x64 latent, 4 MiB of float16."""


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


class ChannelsFirstOperators(CoreMLOperators):
    """Quantized layers of a checkpoint, all of them as convolutions, and split attention."""

    def tokens(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, 1, H * W]."""
        batch, channels, height, width = x.shape
        return x.reshape(batch, channels, 1, height * width)

    def picture(self, x: Tensor, height: int, width: int) -> Tensor:
        """[B, C, 1, H * W] -> [B, C, H, W]."""
        return x.reshape(*x.shape[:2], height, width)

    def text(self, context: Tensor) -> Tensor:
        """[B, N, D] -> [B, D, 1, N]."""
        return context.transpose(1, 2).unsqueeze(2)

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Slices of channels."""
        first, second = x.chunk(2, dim=1)
        return first, second

    def layer(self, spec: LayerSpec) -> nn.Module:
        """See :class:`Operators`; ``layers`` hold weights of convolutions only."""
        return super().layer(spec.as_convolution())

    def layer_norm(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """LayerNorm of tokens [B, C, 1, N] over axis 1."""
        normed: Tensor = channel_norm(x, norm.weight, norm.bias, self.constant(norm.eps))
        return normed

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """q [B, C, 1, N], k and v [B, C, 1, M] -> [B, C, 1, N], head by head."""
        width = q.shape[1] // heads
        q = q * self.constant(width**-0.5)
        keys = k.transpose(1, 3)
        parts = zip(q.split(width, dim=1), keys.split(width, dim=3), v.split(width, dim=1), strict=True)
        return torch.cat([self._head(*part) for part in parts], dim=1)

    def _head(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """query [B, c, 1, N], keys [B, M, 1, c], values [B, c, 1, M] -> [B, c, 1, N]."""
        rows = query_rows(query.shape[3], keys.shape[1]) if self.options.attention_form == "split-chunked" else query.shape[3]
        found = [_attend(some, keys, values) for some in query.split(rows, dim=3)]
        return found[0] if len(found) == 1 else torch.cat(found, dim=3)


def query_rows(queries: int, keys: int) -> int:
    """Queries whose scores are made at once: all, or as many chunks of equal length as keep to :data:`SCORES_AT_ONCE`."""
    if queries * keys <= SCORES_AT_ONCE:
        return queries
    return math.ceil(queries / math.ceil(queries / max(1, SCORES_AT_ONCE // keys)))


def _attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Scores [B, M, 1, N] have the keys as channels."""
    weights = torch.softmax(torch.einsum("bkhc,bchq->bkhq", keys, query), dim=1)
    return torch.einsum("bchk,bkhq->bchq", values, weights)
