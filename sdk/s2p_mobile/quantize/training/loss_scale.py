"""Gradients in float16, whose smallest number is 6e-8: losses are multiplied before the backward pass and gradients divided after it
(Micikevicius et al., "Mixed Precision Training", ICLR 2018)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_GROWTH_STEPS = 200
"""Steps with finite gradients after which the factor doubles."""
_LARGEST = 2.0**40


class LossScale:
    """The factor: halved when gradients overflow, whose step is left out then, and doubled when they have not for a while.

    Attributes:
        state: float64 [2] on the processor, factor and steps since it last changed; what a resumed run takes over.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.state = torch.tensor([2.0**16 if enabled else 1.0, 0.0], dtype=torch.float64)

    @property
    def factor(self) -> float:
        """Of the loss."""
        return float(self.state[0])

    @torch.no_grad()
    def remove(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divide the gradients by the factor."""
        if self.enabled:
            gradients: list[Tensor] = [parameter.grad for parameter in parameters if parameter.grad is not None]
            torch._foreach_mul_(gradients, 1 / self.factor)

    def overflowed(self) -> bool:
        """After gradients that are not finite: halve the factor; False if there is nothing left to halve."""
        if not self.enabled or self.factor <= 1.0:
            return False
        self.state[0], self.state[1] = self.factor / 2, 0.0
        return True

    def succeeded(self) -> None:
        """After a step."""
        if self.enabled:
            self.state[1] += 1
            if self.state[1] >= _GROWTH_STEPS and self.factor < _LARGEST:
                self.state[0], self.state[1] = self.factor * 2, 0.0
