"""Implementations of run-time operations, by kind. Importing this package registers them all.

Semantics after the operation definitions of iOS 15 to iOS 18 in the documentation of Core ML's MIL. Each function computes
in the dtype of its arguments; rounding to the declared dtype is the interpreter's.
"""

from s2p_runtime.hosts.coreml.mil.ops import (
    activation,
    attention,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    quantization,
    reduction,
    resize,
    shape,
    tensor,
)

__all__ = [
    "activation",
    "attention",
    "convolution",
    "elementwise",
    "indexing",
    "linear",
    "normalization",
    "quantization",
    "reduction",
    "resize",
    "shape",
    "tensor",
]
