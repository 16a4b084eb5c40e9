"""What runs before and after what: positions of operators that leave the engine, and the parts that stay.

Order is that of the data and not of the program's text: a cast of an input may stand anywhere and still run before everything else.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from s2p_converters.targets.coreml.residency.typed import TypedOperator
from s2p_runtime.residency import Position

CONVOLUTIONS = ("conv", "conv_transpose")
PRODUCTS = (*CONVOLUTIONS, "linear", "matmul", "einsum", "scaled_dot_product_attention")
"""Operators that do nearly all of the arithmetic."""


class Flow:
    """The operators of a function by what they depend on."""

    def __init__(self, operators: Sequence[TypedOperator]) -> None:
        self.operators = operators
        makers = {output.name: each.place for each in operators for output in each.outputs}
        self._parents = [sorted({makers[value.name] for _, value in each.inputs if value.name in makers}) for each in operators]
        self._children: list[list[int]] = [[] for _ in operators]
        for place, parents in enumerate(self._parents):
            for parent in parents:
                self._children[parent].append(place)
        self._index_work = self._find_index_work()
        convolutions = [each.place for each in operators if each.kind in CONVOLUTIONS]
        self._convolutions = (convolutions[0], convolutions[-1]) if convolutions else (len(operators), -1)

    def _find_index_work(self) -> list[bool]:
        """Whether an operator depends on integer inputs alone and no product comes before it.

        That is the look-up of a step's row, or of words, and what prepares it: all of it can run before the engine begins, wherever
        single operators of it could run.
        """
        found: list[bool] = []
        for each, parents in zip(self.operators, self._parents, strict=True):
            own = [value for _, value in each.inputs if value.name in each.reads_inputs]
            integers = all(value.type.element.kind in ("int", "bool") for value in own)
            found.append(integers and each.kind not in PRODUCTS and all(found[parent] for parent in parents))
        return found

    def positions(self, off: Collection[int]) -> list[Position]:
        """Where each operator would stand if it were off the engine, as those are whose places are ``off``."""
        before, after = [False] * len(self.operators), [False] * len(self.operators)
        for place, parents in enumerate(self._parents):
            before[place] = any(before[parent] or self._engages(parent, off) for parent in parents)
        for place in reversed(range(len(self.operators))):
            after[place] = any(after[child] or child not in off for child in self._children[place])
        return [("inside" if after[place] else "end") if before[place] else "start" for place in range(len(self.operators))]

    def between_convolutions(self, place: int, position: Position) -> bool:
        """Whether an operator is inside, and stands after the program's first and before its last convolution."""
        first, last = self._convolutions
        return position == "inside" and first < place < last

    def segments(self, off: Collection[int]) -> list[list[int]]:
        """Operators that run on the engine without a break, in the order in which the parts run.

        A part holds all that needs as many returns to the engine; so there are no more parts than the data demand.
        """
        stage = [0] * len(self.operators)
        parts: dict[int, list[int]] = {}
        for place, parents in enumerate(self._parents):
            leaves = place in off
            stage[place] = max((stage[parent] + (leaves and self._engages(parent, off)) for parent in parents), default=0)
            if not leaves:
                parts.setdefault(stage[place], []).append(place)
        return [parts[key] for key in sorted(parts)]

    def _engages(self, place: int, off: Collection[int]) -> bool:
        """Whether the engine must have begun for an operator."""
        return place not in off and not self._index_work[place]
