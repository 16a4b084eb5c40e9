"""Ports of programs, and the shapes that a checkpoint gives them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from s2p_converters.core.checkpoint import Checkpoint
from s2p_runtime.component import TensorSpec

Dtype = Literal["float16", "float32", "int32", "int64"]


def tensor(name: str, shape: tuple[int, ...], dtype: Dtype = "float32") -> TensorSpec:
    """A port of a program."""
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def example(port: TensorSpec) -> Tensor:
    """Zeros of a port's shape and type."""
    return torch.zeros(port.shape, dtype=getattr(torch, port.dtype))


def branches(checkpoint: Checkpoint) -> int:
    """Samples of one U-Net call: two with classifier-free guidance."""
    return 2 if checkpoint.manifest.guidance > 1 else 1


def own_latents(checkpoint: Checkpoint) -> tuple[int, int]:
    """Height and width of the checkpoint's own latents."""
    return checkpoint.manifest.latents.height, checkpoint.manifest.latents.width


def sample_shape(checkpoint: Checkpoint, latents: tuple[int, int] | None = None) -> tuple[int, int, int, int]:
    """[B, C, H, W] of a U-Net call, for latents of a height and width (None: the checkpoint's own)."""
    return branches(checkpoint), checkpoint.manifest.latents.channels, *(latents or own_latents(checkpoint))


def context_shape(checkpoint: Checkpoint) -> tuple[int, int, int]:
    """[B, N, D] of ``encoder_hidden_states``."""
    return branches(checkpoint), checkpoint.manifest.tokenizer.max_length, checkpoint.structure.context_dim
