"""Attention written out as matmul, softmax, matmul is evaluated at once, some rows at a time, with the values of its operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import scipy.special
import torch

from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.coreml.mil import Function, NamedType, Program
from s2p_runtime.hosts.coreml.mil.fusion import SPLIT_ATTENTION, WRITTEN_OUT_ATTENTION
from s2p_runtime.hosts.coreml.mil.interpreter import DenseWeights, evaluate
from s2p_runtime.hosts.coreml.mil.ops import attention
from s2p_runtime.hosts.coreml.mil.types import TensorType

Array = np.ndarray[Any, Any]
Compute = Literal["declared", "float64"]


def shapes(key_as_it_stands: bool = False, value_transposed: bool = False) -> dict[str, tuple[tuple[int, ...], str]]:
    """Queries [2, 3, 7, 4], and what attends to 5 keys."""
    key, value = (2, 3, 5, 4), (2, 3, 5, 6)
    return {
        "q": ((2, 3, 7, 4), "float32"),
        "k": ((*key[:2], 4, 5) if key_as_it_stands else key, "float32"),
        "v": ((*value[:2], 6, 5) if value_transposed else value, "float32"),
    }


def kinds(program: Program) -> list[str]:
    return [operation.kind for operation in program.function().evaluated]


def drawn(program: Program, rng: np.random.Generator) -> dict[str, Array]:
    return {item.name: rng.standard_normal(item.type.shape).astype(np.float32) for item in program.inputs}


@pytest.mark.parametrize(
    ("at_once", "rows"), [(1 << 20, 32), (600, 32), (100, 2)], ids=["together", "a few matrices", "two rows"]
)
@pytest.mark.parametrize("key_as_it_stands", [False, True])
@pytest.mark.parametrize("value_transposed", [False, True])
def test_written_out(
    at_once: int,
    rows: int,
    key_as_it_stands: bool,
    value_transposed: bool,
    open_program: Any,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "_SCORES_AT_ONCE", at_once)
    monkeypatch.setattr(attention, "_FEWEST_ROWS", rows)

    def build(mb: Any, q: Any, k: Any, v: Any) -> Any:
        weights = mb.softmax(x=mb.matmul(x=q, y=k, transpose_y=not key_as_it_stands), axis=-1)
        v = mb.mul(x=v, y=np.float32(2))  # stands between the softmax and its reader
        return mb.matmul(x=weights, y=v, transpose_y=value_transposed)

    program = open_program(shapes(key_as_it_stands, value_transposed), build)
    assert kinds(program) == ["mul", WRITTEN_OUT_ATTENTION]
    assert program.operation_counts()["softmax"] == 1
    feeds = drawn(program, rng)
    q, k, v = (feeds[name].astype(np.float64) for name in "qkv")
    k, v = k if key_as_it_stands else np.swapaxes(k, 2, 3), np.swapaxes(v, 2, 3) if value_transposed else v
    expected = scipy.special.softmax(q @ k, -1) @ (2 * v)
    for compute, tolerance in (("float64", 1e-14), ("declared", 1e-5)):
        (found,) = program.run(feeds, compute=compute).values()
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_scores_and_weights_are_rounded_as_declared(open_program: Any, rng: np.random.Generator) -> None:
    """With one term in each score and ones on the diagonal of the values, every rounding is visible."""

    def build(mb: Any, q: Any, k: Any) -> Any:
        weights = mb.softmax(x=mb.matmul(x=q, y=k, transpose_y=True), axis=-1)
        return mb.matmul(x=weights, y=np.eye(5, dtype=np.float16)[None])

    program = open_program({"q": ((2, 7, 1), "float16"), "k": ((2, 5, 1), "float16")}, build)
    assert kinds(program) == [WRITTEN_OUT_ATTENTION]
    feeds = drawn(program, rng)
    (found,) = program.run(feeds).values()
    q, k = (torch.from_numpy(feeds[name]).half().float() for name in "qk")
    scores = q @ k.transpose(1, 2)
    np.testing.assert_array_equal(found, torch.softmax(scores.half().float(), -1).half().numpy())
    assert not np.array_equal(found, torch.softmax(scores, -1).half().numpy())


def split_head(mb: Any, q: Any, k: Any, v: Any, equation: str = "nchw,nwhu->nchu", axis: int = 1) -> Any:
    weights = mb.softmax(x=mb.einsum(values=(k, q), equation=equation), axis=axis)
    return mb.einsum(values=(v, weights), equation=equation)


HEAD = {"q": ((2, 4, 1, 7), "float32"), "k": ((2, 5, 1, 4), "float32"), "v": ((2, 6, 1, 5), "float32")}
"""7 queries and 5 keys of 4 channels, 6 of the values, as the Neural Engine has them."""


@pytest.mark.parametrize(("at_once", "rows"), [(1 << 20, 32), (100, 2)], ids=["together", "two rows"])
def test_a_head_with_keys_as_channels(
    at_once: int, rows: int, open_program: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_SCORES_AT_ONCE", at_once)
    monkeypatch.setattr(attention, "_FEWEST_ROWS", rows)
    program = open_program(HEAD, split_head)
    assert kinds(program) == [SPLIT_ATTENTION]
    feeds = drawn(program, rng)
    q, k, v = (feeds[name].astype(np.float64) for name in "qkv")
    weights = scipy.special.softmax(np.einsum("bmhc,bchn->bmhn", k, q), 1)
    expected = np.einsum("bvhm,bmhn->bvhn", v, weights)
    for compute, tolerance in (("float64", 1e-14), ("declared", 1e-5)):
        (found,) = program.run(feeds, compute=compute).values()
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_a_softmax_over_queries_is_no_attention_of_a_head(open_program: Any, rng: np.random.Generator) -> None:
    program = open_program(HEAD, lambda mb, q, k, v: split_head(mb, q, k, v, axis=3))
    assert program.function().evaluated == program.function().operations
    feeds = drawn(program, rng)
    q, k, v = (feeds[name].astype(np.float64) for name in "qkv")
    weights = scipy.special.softmax(np.einsum("bmhc,bchn->bmhn", k, q), 3)
    (found,) = program.run(feeds, compute="float64").values()
    np.testing.assert_allclose(found, np.einsum("bvhm,bmhn->bvhn", v, weights), rtol=1e-14, atol=1e-14)


def read_twice(mb: Any, q: Any, k: Any, v: Any) -> Any:
    scores = mb.matmul(x=q, y=k, transpose_y=True)
    return mb.matmul(x=mb.softmax(x=scores, axis=-1), y=v), mb.relu(x=scores)


def returned(mb: Any, q: Any, k: Any, v: Any) -> Any:
    weights = mb.softmax(x=mb.matmul(x=q, y=k, transpose_y=True), axis=-1)
    return mb.matmul(x=weights, y=v), weights


def over_queries(mb: Any, q: Any, k: Any, v: Any) -> Any:
    return mb.matmul(x=mb.softmax(x=mb.matmul(x=q, y=k, transpose_y=True), axis=-2), y=v)


def of_columns(mb: Any, q: Any, k: Any, v: Any) -> Any:
    turned = mb.transpose(x=q, perm=[0, 1, 3, 2])
    return mb.matmul(x=mb.softmax(x=mb.matmul(x=turned, y=k, transpose_x=True, transpose_y=True), axis=-1), y=v)


@pytest.mark.parametrize(("build", "axis"), [(read_twice, -1), (returned, -1), (over_queries, -2), (of_columns, -1)])
def test_what_is_no_attention_of_rows_is_left_alone(
    build: Callable[..., Any], axis: int, open_program: Any, rng: np.random.Generator
) -> None:
    program = open_program(shapes(), build)
    assert program.function().evaluated == program.function().operations
    feeds = drawn(program, rng)
    q, k, v = (feeds[name].astype(np.float64) for name in "qkv")
    found = next(iter(program.run(feeds, compute="float64").values()))
    np.testing.assert_allclose(found, scipy.special.softmax(q @ np.swapaxes(k, 2, 3), axis) @ v, rtol=1e-13, atol=1e-14)


def test_shapes_between_are_checked(open_program: Any, rng: np.random.Generator) -> None:
    def build(mb: Any, q: Any, k: Any, v: Any) -> Any:
        return mb.matmul(x=mb.softmax(x=mb.matmul(x=q, y=k, transpose_y=True), axis=-1), y=v)

    program = open_program(shapes(), build)
    function: Function = program.function()
    (operation,) = function.evaluated
    scores, weights = operation.between
    other = NamedType(weights.name, TensorType(weights.type.element, (2, 3, 7, 6)))
    damaged = replace(function, evaluated=(replace(operation, between=(scores, other)),))
    feeds = {name: torch.from_numpy(value) for name, value in drawn(program, rng).items()}
    with pytest.raises(S2PError, match=r"shape \(2, 3, 7, 5\), the program declares fp32\[2, 3, 7, 6\]"):
        evaluate(damaged, feeds, "declared", DenseWeights(0))
