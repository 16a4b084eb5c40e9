"""Each process keeps the optimizer's state of its own part of the parameters (ZeRO stage 1, Rajbhandari et al. 2020, arXiv
1910.02054): Adam and averages work on each number alone, so the result is the same to the bit as with the state everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from s2p_mobile.quantize.workers import Workers


class Shares:
    """Which process looks after which parameter.

    Attributes:
        parameters: all of them, by name; every process holds their values.
        own: those of this process.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], workers: Workers, shared: bool, kept: torch.dtype = torch.float32
    ) -> None:
        """
        Args:
            shared: divide them among the processes; otherwise each process looks after all.
            kept: dtype of the optimizer's state.
        """
        self.parameters, self.workers = dict(parameters), workers
        self.shared, self.kept = shared and workers.count > 1, kept
        self._owner = _fair(self.parameters, workers.count) if self.shared else {}
        self.own = {name: value for name, value in self.parameters.items() if self._is_own(name)}

    def _is_own(self, name: str) -> bool:
        return not self.shared or self._owner[name] == self.workers.rank

    @torch.no_grad()
    def publish(self) -> None:
        """Give every process the new values of all parameters, and forget all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None
        if not self.shared:
            return
        for rank in range(self.workers.count):
            mine = [parameter for name, parameter in self.parameters.items() if self._owner[name] == rank]
            flat = (
                torch.cat([parameter.detach().reshape(-1) for parameter in mine])
                if mine
                else torch.zeros(0, device=self.workers.device)
            )
            self.workers.from_rank([flat], rank)
            if rank != self.workers.rank:
                for parameter, part in zip(mine, flat.split([parameter.numel() for parameter in mine]), strict=True):
                    parameter.copy_(part.view_as(parameter))

    def collect(self, tensors: Mapping[str, Tensor], kinds: Sequence[str]) -> dict[str, Tensor]:
        """The state of all parameters in the main process, from the parts that each process has; called by all of them together.

        Args:
            tensors: ``<parameter>.<kind>`` -> a tensor of the parameter's shape, of the own parameters; all of one dtype.
        """
        if not self.shared:
            return dict(tensors)
        collected: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            for kind in kinds:
                key = f"{name}.{kind}"
                value = tensors[key] if self._is_own(name) else torch.empty_like(parameter, dtype=self.kept)
                self.workers.from_rank([value], self._owner[name])
                if self.workers.main:
                    collected[key] = value.detach().cpu()
        return collected


def _fair(parameters: Mapping[str, nn.Parameter], count: int) -> dict[str, int]:
    """Largest first, each to the process that has the least; the same in every process."""
    loads = [0] * count
    owner = {}
    for name, parameter in sorted(parameters.items(), key=lambda item: (-item[1].numel(), item[0])):
        owner[name] = loads.index(min(loads))
        loads[owner[name]] += parameter.numel()
    return owner
