"""Tensors that are traced instead of computed: running :class:`StepUNet` on them writes an XNNPACK subgraph.

A symbol has torch's logical shape; its value lies in memory as XNNPACK wants it. Images [B, C, H, W] lie as NHWC, so flattening
an image to tokens and back moves nothing. Three things stay pending until somebody needs them, because their consumer can
usually do them for nothing: a per-channel shift (folded into GroupNorm), zero columns (convolution padding) and upsampling
(done behind the clamp of a quantized layer, which then touches a quarter of the elements).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F

from s2p_converters.targets.executorch.xnnpack.subgraph import Subgraph, Value
from s2p_runtime.errors import S2PError


def _unknown(what: str) -> S2PError:
    """An operation that has no XNNPACK nodes here."""
    return S2PError(
        f"this U-Net needs {what}, which the XNNPACK programs do not have", "convert with `target=coreml` instead", "target"
    )


def upsample_twice(graph: Subgraph, x: Value) -> Value:
    """Nearest-neighbour upsampling by two of [B, H, W, C]: each pixel twice, then each row twice."""
    b, h, w, c = x.shape
    flat = graph.reshape(x, (b * h * w, c))
    columns = graph.reshape(graph.concatenate([flat, flat], 1), (b * h, 2 * w * c))
    return graph.reshape(graph.concatenate([columns, columns], 1), (b, 2 * h, 2 * w, c))


@dataclass(frozen=True, eq=False)
class Symbol:
    """A traced tensor.

    Attributes:
        value: without what is pending.
        channels_last: axis 1 of the logical shape lies last in memory (images, and images flattened to [B, C, N]).
        shift: pending per-channel addition, [1, 1, 1, C].
        border: pending zero rows below and columns to the right.
        upsampled: pending upsampling by two.
        halves: the two halves along the last axis where a layer computed them separately.
        parts: the images that this one was put together of along the channels, nothing pending; empty: not known.
    """

    graph: Subgraph = field(repr=False)
    value: Value
    channels_last: bool
    shift: Value | None = None
    border: int = 0
    upsampled: bool = False
    halves: tuple[Value, Value] | None = None
    parts: tuple[Symbol, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """torch's shape, pending work included."""
        shape = self.value.shape if self.halves is None else (*self.value.shape[:-1], 2 * self.value.shape[-1])
        if not self.channels_last:
            return shape
        scale = 2 if self.upsampled else 1
        return (shape[0], shape[-1], *(n * scale + self.border for n in shape[1:-1]))

    def settle(self) -> Symbol:
        """The same tensor with nothing pending."""
        graph, value = self.graph, self.value
        if self.halves is not None:
            value = graph.concatenate(self.halves, len(value.shape) - 1)
        if self.shift is not None:
            value = graph.add(value, self.shift)
        if self.upsampled:
            value = upsample_twice(graph, value)
        if self.border:
            value = graph.pad(value, (0, 0, 0, 0), (0, self.border, self.border, 0))
        return Symbol(graph, value, self.channels_last)

    # What the U-Net graph does with tensors

    def __getitem__(self, index: Any) -> Symbol:
        if index != (slice(None), slice(None), None, None) or len(self.shape) != 2:
            raise _unknown(f"indexing with {index!r}")
        rows, channels = self.value.shape
        return Symbol(self.graph, self.graph.reshape(self.value, (rows, 1, 1, channels)), True)

    def __add__(self, other: Symbol) -> Symbol:
        if self.channels_last and len(other.shape) == 4 and other.shape[2:] == (1, 1) and self.shift is None:
            return replace(self.settle(), shift=other.settle().value)
        left, right = self.settle(), other.settle()
        self._same_layout(right)
        return Symbol(self.graph, self.graph.add(left.value, right.value), self.channels_last)

    def __mul__(self, other: Symbol) -> Symbol:
        left, right = self.settle(), other.settle()
        self._same_layout(right)
        return Symbol(self.graph, self.graph.multiply(left.value, right.value), self.channels_last)

    def _same_layout(self, other: Symbol) -> None:
        if self.channels_last != other.channels_last or len(self.shape) != len(other.shape):
            raise _unknown("operands of different layouts")

    def flatten(self, start: int) -> Symbol:
        """[B, C, H, W] -> [B, C, H * W]."""
        if start != 2 or not self.channels_last or len(self.shape) != 4:
            raise _unknown(f"flatten({start}) of {self.shape}")
        x = self.settle()
        b, h, w, c = x.value.shape
        return Symbol(self.graph, self.graph.reshape(x.value, (b, h * w, c)), True)

    def transpose(self, a: int, b: int) -> Symbol:
        """Exchange axes 1 and 2 of a tensor with three axes: only the name of the layout changes."""
        if (a, b) != (1, 2) or len(self.shape) != 3:
            raise _unknown(f"transpose({a}, {b}) of {self.shape}")
        x = self.settle()
        return Symbol(self.graph, x.value, not self.channels_last)

    def unflatten(self, axis: int, sizes: Sequence[int]) -> Symbol:
        """[B, C, H * W] -> [B, C, H, W]."""
        if axis != 2 or not self.channels_last or len(self.shape) != 3:
            raise _unknown(f"unflatten({axis}) of {self.shape}")
        x = self.settle()
        b, _, c = x.value.shape
        return Symbol(self.graph, self.graph.reshape(x.value, (b, *sizes, c)), True)

    def chunk(self, count: int, dim: int) -> tuple[Symbol, Symbol]:
        """Two halves along the last axis."""
        if count != 2 or dim != -1 or self.channels_last:
            raise _unknown(f"chunk({count}, {dim})")
        if self.halves is not None:
            first, second = self.halves
        else:
            last = len(self.shape) - 1
            size = self.shape[last] // 2
            first, second = (self.graph.slice(self.value, last, start, size) for start in (0, size))
        return Symbol(self.graph, first, False), Symbol(self.graph, second, False)

    def narrow(self, axis: int, start: int, length: int) -> Symbol:
        """A part of the looked-up row [S, N] along its columns."""
        if axis != 1 or self.channels_last or len(self.shape) != 2:
            raise _unknown(f"narrow({axis}) of {self.shape}")
        return Symbol(self.graph, self.graph.slice(self.value, 1, start, length), False)

    def split(self, sizes: Sequence[int], dim: int) -> tuple[Symbol, ...]:
        """Back into the images that this one was put together of."""
        if dim != 1 or tuple(part.shape[1] for part in self.parts) != tuple(sizes):
            raise _unknown(f"split({tuple(sizes)}, {dim}) of {self.shape}")
        return self.parts

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Symbol:
        kwargs = kwargs or {}
        if function is torch.cat and kwargs.get("dim", args[1] if len(args) > 1 else 0) == 1:
            parts = tuple(part.settle() for part in args[0])
            if not all(part.channels_last for part in parts):
                raise _unknown("concatenation along axis 1 of tensors that are no images")
            graph = parts[0].graph
            whole = graph.concatenate([part.value for part in parts], len(parts[0].shape) - 1)
            return Symbol(graph, whole, True, parts=parts)
        if function is F.pad and tuple(args[1]) == (0, 1, 0, 1):
            return replace(args[0].settle(), border=1)
        raise _unknown(f"the function {getattr(function, '__name__', function)}")


def image_input(graph: Subgraph, shape: Sequence[int]) -> Symbol:
    """An input that arrives as NCHW."""
    return Symbol(graph, graph.transpose(graph.input(shape), (0, 2, 3, 1)), True)


def image_output(x: Symbol) -> None:
    """Make an image an output that leaves as NCHW."""
    x.graph.output(x.graph.transpose(x.settle().value, (0, 3, 1, 2)))
