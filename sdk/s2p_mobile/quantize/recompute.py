"""Passes that keep the inputs of resnets and transformers only and run them again on the way back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import MethodType
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from s2p_converters.core.graph import StepUNet
from s2p_mobile.quantize.stages.peaks import recomputed_modules


def _recomputed(module: nn.Module, *inputs: Any) -> Any:
    return checkpoint(type(module).forward, module, *inputs, use_reentrant=False, preserve_rng_state=False)


def recompute_in_backward(unet: StepUNet) -> None:
    """Let every resnet and transformer keep its inputs only, and run again in the backward pass."""
    for _, block in unet.named_blocks():
        for module in recomputed_modules(block):
            module.forward = MethodType(_recomputed, module)


@contextlib.contextmanager
def recomputing(unet: nn.Module, enabled: bool) -> Iterator[None]:
    """:func:`recompute_in_backward` for the time of the ``with``."""
    if not enabled or not isinstance(unet, StepUNet):
        yield
        return
    recompute_in_backward(unet)
    try:
        yield
    finally:
        for _, block in unet.named_blocks():
            for module in recomputed_modules(block):
                del module.forward
