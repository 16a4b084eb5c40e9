"""What a graph is made of: layer descriptions, the row of step values, and the replaceable operators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

StepRow = Mapping[str, Tensor]
"""Values looked up for the step: ``<resnet>.time`` [S, C], and per layer what its kind needs, e.g. ``<layer>.inverse`` [S, 1].
S is 1 (one step for the whole batch) or B (a step per sample, in training)."""


@dataclass(frozen=True)
class LayerSpec:
    """A convolution or linear layer of the U-Net, under its diffusers name."""

    name: str
    kind: Literal["conv", "linear"]
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    bias: bool = True

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """[out, in] of a linear layer, [out, in, kernel, kernel] of a convolution."""
        if self.kind == "linear":
            return (self.out_channels, self.in_channels)
        return (self.out_channels, self.in_channels, self.kernel, self.kernel)

    @property
    def weights(self) -> int:
        """Number of weights, bias excluded."""
        return self.out_channels * self.in_channels * self.kernel * self.kernel

    def as_convolution(self) -> LayerSpec:
        """The same layer as a convolution: of a linear one a kernel of one position, for tokens that lie as [B, C, 1, N]."""
        return replace(self, kind="conv")

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The layer's arithmetic: x [B, C, H, W] (conv) or [B, N, C] (linear)."""
        if self.kind == "linear":
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, self.stride, self.padding)

    def per_channel(self, values: Tensor) -> Tensor:
        """Shape [C] or [S, C] so that it broadcasts over this layer's output."""
        if self.kind == "linear":
            return values if values.dim() == 1 else values[:, None, :]
        return values[..., :, None, None]

    def per_step(self, value: Tensor) -> Tensor:
        """Shape [S, 1] so that it broadcasts over this layer's input or output."""
        return value[:, :, None] if self.kind == "linear" else value[:, :, None, None]


class FloatLayer(nn.Module):
    """The unquantized layer. A weight may rest in a narrower type than its input has: it is widened for the product."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.empty(spec.weight_shape))
        self.bias = nn.Parameter(torch.empty(spec.out_channels)) if spec.bias else None

    def forward(self, x: Tensor, row: StepRow) -> Tensor:
        weight = self.weight.to(x.dtype) if self.weight.itemsize < x.itemsize else self.weight
        return self.spec.apply(x, weight, self.bias)


Value = TypeVar("Value")
"""What a graph computes with: a tensor, or something that stands for one in a program that is being written."""


class GraphOperators(ABC, Generic[Value]):
    """What a graph needs of the arithmetic that it is built on."""

    def constant(self, value: float) -> float:
        """A scalar of the arithmetic (an epsilon, an attention scale) as the program stores it. Here: unchanged."""
        return value

    # How the tokens of a transformer lie: here [B, N, C].

    def tokens(self, x: Any) -> Any:
        """The positions of an image [B, C, H, W] as tokens."""
        return x.flatten(2).transpose(1, 2)

    def picture(self, x: Any, height: int, width: int) -> Any:
        """Tokens of H * W positions as an image [B, C, H, W]."""
        return x.transpose(1, 2).unflatten(2, (height, width))

    def text(self, context: Any) -> Any:
        """A text embedding [B, N, D] as tokens."""
        return context

    def halves(self, x: Any) -> tuple[Any, Any]:
        """The first and the second half of the channels of tokens."""
        first, second = x.chunk(2, dim=-1)
        return first, second

    @abstractmethod
    def layer(self, spec: LayerSpec) -> nn.Module:
        """A module called as ``layer(x, row)``: of an image for a convolution, of tokens for a linear layer."""

    @abstractmethod
    def group_norm(self, x: Value, norm: nn.GroupNorm) -> Value:
        """GroupNorm of x [B, C, H, W]."""

    @abstractmethod
    def layer_norm(self, x: Value, norm: nn.LayerNorm) -> Value:
        """LayerNorm of tokens over their channels."""

    @abstractmethod
    def attention(self, q: Value, k: Value, v: Value, heads: int) -> Value:
        """Multi-head attention: N tokens q, M tokens k and v, each of C channels -> N tokens, scaled by 1 / sqrt(C / heads)."""

    @abstractmethod
    def silu(self, x: Value) -> Value:
        """x * sigmoid(x)."""

    @abstractmethod
    def gelu(self, x: Value) -> Value:
        """Exact (erf) GELU."""

    @abstractmethod
    def upsample(self, x: Value) -> Value:
        """Nearest-neighbour upsampling by two."""


class Operators(GraphOperators[Tensor]):
    """The operators of a float graph in plain torch. Subclasses replace what their target needs otherwise."""

    def layer(self, spec: LayerSpec) -> nn.Module:
        """A module called as ``layer(x, row)``."""
        return FloatLayer(spec)

    def group_norm(self, x: Tensor, norm: nn.GroupNorm) -> Tensor:
        """GroupNorm of x [B, C, H, W]."""
        return F.group_norm(x, norm.num_groups, norm.weight, norm.bias, self.constant(norm.eps))

    def layer_norm(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """LayerNorm of tokens [B, N, C] over the last axis."""
        return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, self.constant(norm.eps))

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """Multi-head attention: q [B, N, C], k and v [B, M, C] -> [B, N, C], scaled by 1 / sqrt(C / heads)."""
        scale = self.constant((q.shape[2] // heads) ** -0.5)
        q, k, v = (t.unflatten(2, (heads, t.shape[2] // heads)).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(2)

    def silu(self, x: Tensor) -> Tensor:
        """x * sigmoid(x)."""
        return F.silu(x)

    def gelu(self, x: Tensor) -> Tensor:
        """Exact (erf) GELU."""
        return F.gelu(x)

    def upsample(self, x: Tensor) -> Tensor:
        """Nearest-neighbour upsampling by two."""
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
