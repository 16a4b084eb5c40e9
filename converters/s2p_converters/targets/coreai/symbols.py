"""Tensors that are traced instead of computed: running :class:`StepUNet` on them writes a Core AI graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from s2p_converters.targets.coreai.builder import Builder, Value, ca
from s2p_runtime.errors import S2PError


def _unknown(what: str) -> S2PError:
    return S2PError(
        f"this U-Net needs {what}, which the Core AI programs do not have", "convert it for another `target`", "target"
    )


@dataclass(frozen=True, eq=False)
class Symbol:
    """A traced tensor: a value of a graph with the names of torch's methods."""

    builder: Builder
    value: Value

    @property
    def shape(self) -> tuple[int, ...]:
        """All sizes are known."""
        return tuple(self.value.type.shape)

    def with_value(self, value: Value) -> Symbol:
        """Another tensor of the same program."""
        return Symbol(self.builder, value)

    def __add__(self, other: Symbol) -> Symbol:
        return self.with_value(ca.broadcasting_add(self.value, other.value))

    def __mul__(self, other: Symbol | float) -> Symbol:
        factor = other.value if isinstance(other, Symbol) else np.array(other, self.builder.dtype)
        return self.with_value(ca.broadcasting_mul(self.value, factor))

    def __getitem__(self, index: Any) -> Symbol:
        if index != (slice(None), slice(None), None, None) or len(self.shape) != 2:
            raise _unknown(f"indexing with {index!r}")
        return self.reshape(*self.shape, 1, 1)

    def reshape(self, *shape: int) -> Symbol:
        """The same numbers in another shape."""
        return self.with_value(ca.reshape(self.value, np.array(shape, np.int32)))

    def transpose(self, a: int, b: int) -> Symbol:
        """Exchange two axes."""
        order = list(range(len(self.shape)))
        order[a], order[b] = b, a
        return self.with_value(ca.transpose(self.value, np.array(order, np.uint32)))

    def unsqueeze(self, axis: int) -> Symbol:
        """A new axis of length 1."""
        return self.reshape(*self.shape[:axis], 1, *self.shape[axis:])

    def flatten(self, start: int) -> Symbol:
        """All axes from ``start`` on as one."""
        return self.reshape(*self.shape[:start], int(np.prod(self.shape[start:])))

    def unflatten(self, axis: int, sizes: Sequence[int]) -> Symbol:
        """One axis as several."""
        return self.reshape(*self.shape[:axis], *sizes, *self.shape[axis + 1 :])

    def narrow(self, axis: int, start: int, length: int) -> Symbol:
        """A slice."""
        axis %= len(self.shape)
        begin, end = [0] * len(self.shape), list(self.shape)
        begin[axis], end[axis] = start, start + length
        bounds = (np.array(part, np.int32) for part in (begin, end, [1] * len(begin)))
        return self.with_value(ca.slice_(self.value, *bounds))

    def chunk(self, count: int, dim: int) -> tuple[Symbol, ...]:
        """Slices of equal length."""
        return self.split(self.shape[dim] // count, dim)

    def split(self, sizes: int | Sequence[int], dim: int) -> tuple[Symbol, ...]:
        """Slices of these lengths, or of one length and a rest."""
        total = self.shape[dim]
        if isinstance(sizes, int):
            sizes = [min(sizes, total - start) for start in range(0, total, sizes)]
        if len(sizes) == 1:
            return (self,)
        starts = np.cumsum([0, *sizes]).tolist()
        return tuple(self.narrow(dim, start, size) for start, size in zip(starts, sizes, strict=False))

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Symbol:
        kwargs = kwargs or {}
        if function is torch.cat:
            parts, axis = args[0], kwargs.get("dim", args[1] if len(args) > 1 else 0)
            return parts[0].with_value(ca.concat(np.array(axis, np.int32), [part.value for part in parts]))
        if function is F.pad and tuple(args[1]) == (0, 1, 0, 1):
            return padded(args[0], (0, 1, 0, 1))
        raise _unknown(f"the function {getattr(function, '__name__', function)}")


def padded(x: Symbol, border: tuple[int, int, int, int]) -> Symbol:
    """Zeros around images [B, C, H, W]: before and behind the rows, before and behind the columns."""
    zero = np.array(0, x.builder.dtype)
    return x.with_value(ca.pad(x.value, np.array([0, 0, 0, 0, *border], np.uint32), zero, "constant"))
