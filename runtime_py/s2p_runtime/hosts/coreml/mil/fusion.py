"""Attention that a program writes out is evaluated at once.

A program without the operation ``scaled_dot_product_attention`` writes it as matmul, softmax, matmul. The scores between them are
[L, S] for every head: 4 GiB of float64 with their softmax at the 64x64 latents of Stable Diffusion, which no cache holds and whose
every page is asked of the system anew. As one operation they need never exist together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from s2p_runtime.hosts.coreml.mil.constants import Constant, Weight
from s2p_runtime.hosts.coreml.mil.operations import Operation

WRITTEN_OUT_ATTENTION = "matmul, softmax, matmul"
"""Kind of the fused operation: softmax(query key) value, or of the transposed key and value where it says so."""


def fused(operations: Sequence[Operation], constants: Mapping[str, Weight], kept: Collection[str]) -> list[Operation]:
    """``operations`` with every written-out attention as one operation, at the place of its last.

    Args:
        operations: in program order.
        constants: by name.
        kept: names of the function's outputs.
    """
    makers = {output.name: place for place, operation in enumerate(operations) for output in operation.outputs}
    readers = Counter(name for operation in operations for name in operation.reads)
    readers.update(kept)

    def maker(operation: Operation, kind: str) -> int | None:
        """Place of the operation that makes x, if it is of this kind and nothing else reads its value."""
        for name in operation.arguments.get("x", ()):
            if isinstance(name, str) and readers[name] == 1 and name in makers and operations[makers[name]].kind == kind:
                return makers[name]
        return None

    result: list[Operation | None] = list(operations)
    for place, last in enumerate(operations):
        middle = maker(last, "softmax") if last.kind == "matmul" and last.outputs else None
        if middle is None:
            continue
        first = maker(operations[middle], "matmul")
        if first is not None and _is_attention(operations[first], operations[middle], last, constants):
            result[first] = result[middle] = None
            result[place] = _attention(operations[first], operations[middle], last)
    return [operation for operation in result if operation is not None]


def _is_attention(first: Operation, middle: Operation, last: Operation, constants: Mapping[str, Weight]) -> bool:
    """Whether rows of the result depend on the same rows of the query alone, in every head."""
    scores, result = first.outputs[0].type.shape, last.outputs[0].type.shape
    return (
        len(scores) >= 2
        and None not in scores
        and result[:-1] == scores[:-1]
        and _integer(middle, "axis", -1, constants) in (-1, len(scores) - 1)
        and _integer(first, "transpose_x", 0, constants) == 0
        and _integer(last, "transpose_x", 0, constants) == 0
    )


def _integer(operation: Operation, name: str, default: int, constants: Mapping[str, Weight]) -> int | None:
    """A parameter that is one integer or flag; ``None`` when the program does not tell it in advance."""
    for argument in operation.arguments.get(name, ()):
        source = argument if isinstance(argument, Constant) else constants.get(argument)
        if source is None or source.type.element.kind not in ("int", "bool") or source.type.shape not in ((), (1,)):
            return None
        return int(np.reshape(source.array() if isinstance(source, Constant) else source.dense(), ()))
    return default


def _attention(first: Operation, middle: Operation, last: Operation) -> Operation:
    arguments = {"query": first.arguments["x"], "key": first.arguments["y"], "value": last.arguments["y"]}
    flags = {"transpose_key": first, "transpose_value": last}
    arguments |= {name: operation.arguments.get("transpose_y", ()) for name, operation in flags.items()}
    return Operation(WRITTEN_OUT_ATTENTION, last.outputs, arguments, (*first.outputs, *middle.outputs))
