"""Float modules through ExecuTorch's stock partitioners."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import


def partitioner(backend: str) -> Any:
    """The partitioner of a backend.

    Raises:
        S2PError: the installed executorch has no such backend.
    """
    try:
        with quiet_import():
            if backend == "coreml":
                from executorch.backends.apple.coreml.partition import CoreMLPartitioner

                return CoreMLPartitioner()
            if backend == "vulkan":
                from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

                return VulkanPartitioner()
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

            return XnnpackPartitioner()
    except ImportError as error:
        raise S2PError(f"executorch here lacks its {backend} backend ({error}); use --backend xnnpack") from error


def lower(module: nn.Module, inputs: tuple[Any, ...], backend: str) -> bytes:
    """A .pte with one method ``forward``; what the backend does not take stays with the portable operators.

    Raises:
        S2PError: the backend is missing or cannot be lowered to on this machine.
    """
    chosen = partitioner(backend)
    try:
        with quiet_import(), torch.no_grad():
            from executorch.exir import to_edge_transform_and_lower

            exported = torch.export.export(module.eval(), inputs)
            return bytes(to_edge_transform_and_lower(exported, partitioner=[chosen]).to_executorch().buffer)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise S2PError(f"lowering to {backend} failed ({reason}); use --backend xnnpack") from error
