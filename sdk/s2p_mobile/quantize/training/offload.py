"""Tensors that the backward pass needs, kept in the machine's memory while the device computes."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch.autograd.graph import save_on_cpu


def saved_elsewhere(device: torch.device) -> bool:
    """Whether a device's memory is another one than the machine's. On the CPU and on MPS there is nowhere to move tensors to."""
    return device.type == "cuda"


def saved_on_host(enabled: bool) -> AbstractContextManager[None]:
    """A forward pass whose saved tensors wait in page-locked memory of the machine, where copies overlap with computing.

    Values do not change, so gradients are the same with and without.
    """
    context: AbstractContextManager[None] = (
        save_on_cpu(pin_memory=torch.cuda.is_available()) if enabled else contextlib.nullcontext()
    )
    return context
