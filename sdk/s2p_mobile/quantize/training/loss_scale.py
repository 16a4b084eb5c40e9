"""Gradients in float16, whose smallest number is 6e-8: losses are multiplied before the backward pass and gradients divided after it
(Micikevicius et al., "Mixed Precision Training", ICLR 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_GROWTH_STEPS = 200
"""Steps with finite gradients after which the factor doubles."""
_LARGEST = 2.0**40
_TYPICAL = 2.0**-4
"""Root mean square of the output's gradients at the start: in the middle of float16's numbers, in orders of magnitude."""


class LossScale:
    """The factor: halved when gradients overflow, whose step is left out then, and doubled when they have not for a while.

    Attributes:
        state: float64 [2] on the processor, factor and steps since it last changed; what a resumed run takes over. The factor is 0
            until :meth:`start`.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.state = torch.tensor([0.0 if enabled else 1.0, 0.0], dtype=torch.float64)

    @property
    def waits(self) -> bool:
        """Whether :meth:`start` has to be called before the first backward pass."""
        return self.factor == 0.0

    def start(self, loss: float, outputs: int) -> None:
        """Choose the factor, a power of two, such that the gradients of the outputs are of one size whatever the network's: those of
        a mean square ``L`` over n outputs have the root mean square ``2 sqrt(L) / n``.

        Args:
            loss: the first, the mean over the outputs of a step.
            outputs: numbers that it is the mean of.
        """
        if math.isfinite(loss) and loss > 0:
            exponent = round(math.log2(_TYPICAL * outputs / (2 * math.sqrt(loss))))
            self.state[0] = min(_LARGEST, max(1.0, 2.0**exponent))
        else:
            self.state[0] = 2.0**16

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
