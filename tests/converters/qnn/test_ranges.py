"""Static ranges where not every call of the golden runs is run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.executorch.qnn import ranges
from s2p_converters.targets.executorch.qnn.ranges import golden_calls, layer_ranges, ranges_over, watched_calls


def test_large_models_run_the_ends_and_some_between(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched_calls(checkpoint) == [0, 1, 2]
    monkeypatch.setattr(ranges, "_MOST_WORK", 0.0)
    monkeypatch.setattr(ranges, "_FEWEST", 2)
    assert watched_calls(checkpoint) == [0, 2]


def test_what_only_a_call_has_that_is_not_run(checkpoint: Checkpoint) -> None:
    """Its scale is in the checkpoint: the input's range holds its numbers, the output's is as much wider."""
    name, layer = next((name, layer) for name, layer in checkpoint.layers.items() if layer.activation_scale is not None)
    assert layer.activation_scale is not None
    ends = [call for call in golden_calls(checkpoint) if call.step != 1]
    scale = layer.activation_scale.copy()
    largest = max(scale[0], scale[2])
    scale[1] = largest / 2
    before = ranges_over(_with(checkpoint, name, scale), ends)
    scale[1] = largest * 8
    after = ranges_over(_with(checkpoint, name, scale), ends)
    reached = [end * float(scale[1]) for end in layer.activation_range]
    assert after[name].input.low <= reached[0] and reached[1] <= after[name].input.high
    # What was met is the same, call 1 was not run; eight is a power of two.
    assert (after[name].output.low, after[name].output.high) == (8 * before[name].output.low, 8 * before[name].output.high)
    assert after[name].sum == before[name].sum, "a sum over its call's own scale does not grow with that"
    del before[name], after[name]
    assert before == after


def test_of_calls_that_are_all_run_nothing_is_wider_than_met(checkpoint: Checkpoint) -> None:
    """The range of a layer's outputs is that of its own arithmetic at some call."""
    found, calls = layer_ranges(checkpoint), list(golden_calls(checkpoint))
    alone = [ranges_over(checkpoint, [call]) for call in calls]
    for name, layer in checkpoint.layers.items():
        if layer.activation_scale is not None:
            # Of a single call the output is wider by what that call's scale is below the largest.
            met = [layer.activation_scale[call.step] / layer.activation_scale.max() for call in calls]
            highs = [one[name].output.high * factor for one, factor in zip(alone, met, strict=True)]
            assert found[name].output.high == pytest.approx(max(highs), rel=1e-6)


def _with(checkpoint: Checkpoint, name: str, scale: np.ndarray) -> Checkpoint:
    layers = {**checkpoint.layers, name: replace(checkpoint.layers[name], activation_scale=scale)}
    return replace(checkpoint, layers=layers)
