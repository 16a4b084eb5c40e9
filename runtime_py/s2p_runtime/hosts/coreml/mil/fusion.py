"""Attention that a program writes out is evaluated at once.

A program without the operation ``scaled_dot_product_attention`` writes it as matmul, softmax, matmul, or in the shape of the Neural
Engine, where scores have the keys as channels, as einsum, softmax, einsum. The scores between them are
[L, S] for every head: 4 GiB of float64 with their softmax at the 64x64 latents of Stable Diffusion, which no cache holds and whose
every page is asked of the system anew. As one operation they need never exist together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from s2p_runtime.hosts.coreml.mil.constants import Constant, Weight
from s2p_runtime.hosts.coreml.mil.operations import Argument, Operation

WRITTEN_OUT_ATTENTION = "matmul, softmax, matmul"
"""Kind of the fused operation: softmax(query key) value, or of the transposed key and value where it says so."""
SPLIT_ATTENTION = "einsum, softmax, einsum"
"""The same of query [B, c, 1, N], key [B, M, 1, c] and value [B, v, 1, M] -> [B, v, 1, N]."""
_CHANNEL_PRODUCT = "nchw,nwhu->nchu"

Maker = Callable[["Sequence[Argument]", str], "Operation | None"]
"""The operation of a kind that makes one of these values, which nothing else reads."""


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

    def maker(values: Sequence[Argument], kind: str) -> Operation | None:
        for name in values:
            if isinstance(name, str) and readers[name] == 1 and name in makers and operations[makers[name]].kind == kind:
                return operations[makers[name]]
        return None

    result: list[Operation | None] = list(operations)
    for place, last in enumerate(operations):
        if last.kind not in _PATTERNS or not last.outputs:
            continue
        given, find = _PATTERNS[last.kind]
        middle = maker(last.arguments.get(given, ())[-1:], "softmax")
        first = None if middle is None else maker(middle.arguments.get("x", ()), last.kind)
        if middle is None or first is None:
            continue
        whole = find(first, middle, last, constants)
        if whole is not None:
            result[makers[first.outputs[0].name]] = result[makers[middle.outputs[0].name]] = None
            result[place] = whole
    return [operation for operation in result if operation is not None]


def _of_rows(first: Operation, middle: Operation, last: Operation, constants: Mapping[str, Weight]) -> Operation | None:
    """Attention of matmul, where rows of the result depend on the same rows of the query alone, in every head."""
    scores, result = first.outputs[0].type.shape, last.outputs[0].type.shape
    is_attention = (
        len(scores) >= 2
        and None not in scores
        and result[:-1] == scores[:-1]
        and _integer(middle, "axis", -1, constants) in (-1, len(scores) - 1)
        and _integer(first, "transpose_x", 0, constants) == 0
        and _integer(last, "transpose_x", 0, constants) == 0
    )
    if not is_attention:
        return None
    arguments = {"query": first.arguments["x"], "key": first.arguments["y"], "value": last.arguments["y"]}
    flags = {"transpose_key": first, "transpose_value": last}
    arguments |= {name: operation.arguments.get("transpose_y", ()) for name, operation in flags.items()}
    return Operation(WRITTEN_OUT_ATTENTION, last.outputs, arguments, (*first.outputs, *middle.outputs))


def _of_channels(first: Operation, middle: Operation, last: Operation, constants: Mapping[str, Weight]) -> Operation | None:
    """Attention of einsum: the weights are the second factor of the last product, the key is the first of the first."""
    scores = first.outputs[0].type.shape
    is_attention = (
        len(scores) == 4
        and None not in scores
        and _integer(middle, "axis", -1, constants) in (1, -3)
        and all(_equation(product, constants) == _CHANNEL_PRODUCT for product in (first, last))
    )
    if not is_attention:
        return None
    (key, query), value = first.arguments["values"], last.arguments["values"][:1]
    arguments = {"query": (query,), "key": (key,), "value": value}
    return Operation(SPLIT_ATTENTION, last.outputs, arguments, (*first.outputs, *middle.outputs))


_PATTERNS = {"matmul": ("x", _of_rows), "einsum": ("values", _of_channels)}
"""By the kind of the last operation: the parameter whose last value are the weights, and what recognizes the pattern."""


def _equation(operation: Operation, constants: Mapping[str, Weight]) -> str | None:
    """The equation of an einsum of two values, or nothing."""
    if len(operation.arguments.get("values", ())) != 2:
        return None
    for argument in operation.arguments.get("equation", ()):
        source: Constant | Weight | None = argument if isinstance(argument, Constant) else constants.get(argument)
        if isinstance(source, Weight):
            source = source.sources.get("val") if source.form == "const" else None
        is_text = isinstance(source, Constant) and source.type.element.kind == "string"
        return source.text().replace(" ", "") if is_text and isinstance(source, Constant) else None
    return None


def _integer(operation: Operation, name: str, default: int, constants: Mapping[str, Weight]) -> int | None:
    """A parameter that is one integer or flag; ``None`` when the program does not tell it in advance."""
    for argument in operation.arguments.get(name, ()):
        source = argument if isinstance(argument, Constant) else constants.get(argument)
        if source is None or source.type.element.kind not in ("int", "bool") or source.type.shape not in ((), (1,)):
            return None
        return int(np.reshape(source.array() if isinstance(source, Constant) else source.dense(), ()))
    return default
