"""Tensors that are traced instead of computed: running :class:`StepUNet` on them writes an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from s2p_converters.targets.executorch.qnn.onnx_graph import Grid, OnnxGraph
from s2p_runtime.errors import S2PError


def _unknown(what: str) -> S2PError:
    return S2PError(
        f"this U-Net needs {what}, which the programs for Snapdragon do not have", "use `backend=xnnpack`", "backend"
    )


@dataclass(frozen=True, eq=False)
class Symbol:
    """A traced tensor: a value of a graph with the names of torch's methods.

    Attributes:
        grid: what it was rounded to last. What only moves numbers keeps them on it, so that the chip moves integers.
        early: rounds it where it was made, before it was moved; see :meth:`shapeless`.
    """

    graph: OnnxGraph
    value: str
    shape: tuple[int, ...]
    grid: Grid | None = None
    early: Callable[[Grid], Symbol] | None = None

    def shapeless(self) -> Symbol:
        """The same, of an operator whose output has no shape to ONNX Runtime but the one that we tell. It takes roundings from behind
        moves to where the numbers were made, and the value that it puts there would have none. So they are put there at once."""
        return replace(self, early=self.rounded)

    def of(self, value: str, shape: Sequence[int] | None = None) -> Symbol:
        """Another tensor of the same graph; by default of the same shape."""
        return Symbol(self.graph, value, self.shape if shape is None else tuple(shape))

    def apply(self, kind: str, *others: str, label: str = "", shape: Sequence[int] | None = None, **attributes: Any) -> Symbol:
        """The result of a node whose first input this is."""
        found = self.of(self.graph.node(kind, self.value, *others, label=label, **attributes)[0], shape)
        self.graph.describe(found.value, found.shape)
        return found

    def rounded(self, grid: Grid | None) -> Symbol:
        """On a static grid; None: as it is."""
        if grid is not None and self.early is not None:
            return self.early(grid)
        return self if grid is None else Symbol(self.graph, self.graph.rounded(self.value, grid), self.shape, grid)

    def moved(self, kind: str, *others: str, shape: Sequence[int], **attributes: Any) -> Symbol:
        """The result of a node that computes nothing."""
        found, early = self.apply(kind, *others, shape=shape, **attributes).rounded(self.grid), self.early
        if early is None:
            return found
        return replace(found, early=lambda grid: early(grid).moved(kind, *others, shape=shape, **attributes))

    def __add__(self, other: Symbol) -> Symbol:
        return self._with("Add", other)

    def __mul__(self, other: Symbol | float) -> Symbol:
        if not isinstance(other, Symbol):
            return self.apply("Mul", self.graph.constant(np.array(other, np.float32)))
        return self._with("Mul", other)

    def _with(self, kind: str, other: Symbol) -> Symbol:
        return self.apply(kind, other.value, shape=np.broadcast_shapes(self.shape, other.shape))

    def __getitem__(self, index: Any) -> Symbol:
        if index != (slice(None), slice(None), None, None) or len(self.shape) != 2:
            raise _unknown(f"indexing with {index!r}")
        return self.reshape(*self.shape, 1, 1)

    def reshape(self, *shape: int) -> Symbol:
        """The same numbers in another shape."""
        return self if shape == self.shape else self.moved("Reshape", self.graph.numbers(*shape), shape=shape)

    def permute(self, *order: int) -> Symbol:
        """Axes in another order."""
        return self.moved("Transpose", perm=list(order), shape=[self.shape[axis] for axis in order])

    def narrow(self, axis: int, start: int, length: int) -> Symbol:
        """A slice."""
        axis %= len(self.shape)
        bounds = (self.graph.numbers(start), self.graph.numbers(start + length), self.graph.numbers(axis))
        return self.moved("Slice", *bounds, shape=(*self.shape[:axis], length, *self.shape[axis + 1 :]))

    def split(self, sizes: int | Sequence[int], dim: int) -> tuple[Symbol, ...]:
        """Slices of these lengths, or of one length and a rest."""
        axis = dim % len(self.shape)
        total = self.shape[axis]
        if isinstance(sizes, int):
            sizes = [min(sizes, total - start) for start in range(0, total, sizes)]
        if len(sizes) == 1:
            return (self,)
        values = self.graph.node("Split", self.value, self.graph.numbers(*sizes), outputs=len(sizes), axis=axis)
        shapes = [(*self.shape[:axis], size, *self.shape[axis + 1 :]) for size in sizes]
        return tuple(self.of(value, shape).rounded(self.grid) for value, shape in zip(values, shapes, strict=True))

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Symbol:
        kwargs = kwargs or {}
        if function is torch.cat:
            parts, axis = args[0], kwargs.get("dim", args[1] if len(args) > 1 else 0)
            shape = list(parts[0].shape)
            shape[axis] = sum(part.shape[axis] for part in parts)
            return parts[0].apply("Concat", *(part.value for part in parts[1:]), axis=axis, shape=shape)
        if function is F.pad and tuple(args[1]) == (0, 1, 0, 1):
            x: Symbol = args[0]
            batch, channels, height, width = x.shape
            return x.apply("Pad", x.graph.numbers(0, 0, 0, 0, 0, 0, 1, 1), shape=(batch, channels, height + 1, width + 1))
        raise _unknown(f"the function {getattr(function, '__name__', function)}")
