"""Tensors that the backward pass needs, kept in the machine's memory while the device computes."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


def saved_elsewhere(device: torch.device) -> bool:
    """Whether a device's memory is another one than the machine's. On the CPU and on MPS there is nowhere to move tensors to."""
    return device.type == "cuda"


def saved_on_host(enabled: bool) -> AbstractContextManager[None]:
    """A forward pass whose saved tensors wait in page-locked memory of the machine, where copies overlap with computing.

    Values do not change, so gradients are the same with and without. Parameters are on the device in any case and stay there.
    """
    if not enabled:
        return contextlib.nullcontext()
    pinned = torch.cuda.is_available()

    def pack(tensor: Tensor) -> Tensor | tuple[torch.device, Tensor]:
        if isinstance(tensor, nn.Parameter):
            return tensor
        # Laid out as it is, gaps included: a product of a tensor laid out otherwise may round its sums otherwise.
        waiting = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, pin_memory=pinned)
        waiting.copy_(tensor, non_blocking=pinned)
        return tensor.device, waiting

    def unpack(packed: Tensor | tuple[torch.device, Tensor]) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        device, waiting = packed
        return waiting.to(device, non_blocking=pinned)

    hooks: AbstractContextManager[None] = saved_tensors_hooks(pack, unpack)
    return hooks
