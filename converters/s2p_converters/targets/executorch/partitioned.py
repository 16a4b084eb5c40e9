"""Float modules through ExecuTorch's stock partitioners."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from s2p_converters.targets.executorch.passes import without_idle_work
from s2p_converters.targets.executorch.protocol import Partitioned
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import


def partitioner(delegate: Partitioned) -> Any:
    """The partitioner of a backend.

    Raises:
        S2PError: the installed executorch has no such backend.
    """
    module, _, name = delegate.partitioner.partition(":")
    try:
        with quiet_import():
            return getattr(importlib.import_module(module), name)()
    except ImportError as error:
        raise S2PError(
            f"executorch here lacks its {delegate.name} backend ({error})", "use `backend=xnnpack`", "backend"
        ) from error


_MASKED = -1e30
"""Added to masked scores: exp of it is 0 in float32, and unlike an infinity it survives the JSON form of ExecuTorch's graphs."""


def _plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention as two products and a softmax. torch's own decomposition guards against rows that are masked whole with
    comparisons that no partitioner takes; causal masks and none have no such rows."""
    scores = torch.matmul(query * (query.shape[-1] ** -0.5 if scale is None else scale), key.transpose(-2, -1))
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.logical_not(attn_mask).to(scores.dtype) * _MASKED
        scores = scores + attn_mask.clamp(min=_MASKED)
    return torch.matmul(torch.softmax(scores, dim=-1), value)


def lower(module: nn.Module, inputs: tuple[Any, ...], delegate: Partitioned) -> bytes:
    """A .pte with one method ``forward``; what the backend does not take stays with the portable operators.

    Raises:
        S2PError: the backend is missing or cannot be lowered to on this machine.
    """
    return lower_methods(module, {"forward": inputs}, delegate)


def lower_methods(module: nn.Module, methods: Mapping[str, tuple[Any, ...]], delegate: Partitioned) -> bytes:
    """A .pte with a method for each tuple of example inputs; their constants exist once.

    Raises:
        S2PError: the backend is missing or cannot be lowered to on this machine.
    """
    chosen = partitioner(delegate)
    try:
        with quiet_import(), torch.no_grad(), without_idle_work():
            from executorch.exir import to_edge_transform_and_lower

            attention = torch.ops.aten.scaled_dot_product_attention.default
            exported = {
                name: torch.export.export(module.eval(), inputs).run_decompositions({attention: _plain_attention})
                for name, inputs in methods.items()
            }
            lowered = to_edge_transform_and_lower(exported, partitioner=[chosen], **delegate.lowering())
            return bytes(lowered.to_executorch().buffer)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise S2PError(f"lowering to {delegate.name} failed ({reason})", "use `backend=xnnpack`", "backend") from error
