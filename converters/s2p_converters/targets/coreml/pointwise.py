"""Linear layers of other libraries' networks as convolutions, which the Neural Engine keeps (apple/coreai-models, rules for authors:
a linear layer "gets decomposed into less efficient ops that may fall back to CPU")."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PointwiseLinear(nn.Module):
    """A linear layer on x [B, N, C] or [B, C], computed with a kernel of one position on [B, C, 1, N]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        # Buffers' names and shapes stay the layer's own: networks ask it for them.
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight[:, :, None, None]
        if x.dim() == 2:
            return F.conv2d(x[:, :, None, None], kernel, self.bias)[:, :, 0, 0]
        return F.conv2d(x.transpose(1, 2).unsqueeze(2), kernel, self.bias).squeeze(2).transpose(1, 2)


def with_pointwise_layers(module: nn.Module) -> nn.Module:
    """The module itself, every linear layer in it replaced."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, PointwiseLinear(child))
        else:
            with_pointwise_layers(child)
    return module
