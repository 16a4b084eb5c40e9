"""Timing of pieces with a clock that pieces move, and networks as pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from s2p_converters.core.graph import UNetStructure
from s2p_mobile.quantize.forecast.stopwatch import Stopwatch
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.recipes import load_recipe
from s2p_mobile.quantize.stages import Passes, Piece, count_network, parts
from s2p_mobile.quantize.stages.parts import LARGEST_PIECE, PartwiseNetwork, float_network
from s2p_mobile.quantize.student.network import student_network, student_shape
from s2p_mobile.sources.model import Model
from s2p_runtime.plan import SamplingPlan

SD1 = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "cross_attention_dim": 768, "attention_head_dim": 8,
}  # fmt: skip
"""The U-Net of Stable Diffusion 1."""


class Clock:
    """Stands still but for the pieces."""

    def __init__(self) -> None:
        self.now, self.runs = 0.0, dict[object, int]()

    def __call__(self) -> float:
        return self.now

    def piece(self, kind: str, size: float, seconds: float, count: float = 1.0) -> Piece:
        """A piece that takes so long."""

        def run() -> None:
            self.now += seconds
            self.runs[kind, size] = self.runs.get((kind, size), 0) + 1

        return Piece(kind, size, count, size, lambda device: run)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stopwatch(clock: Clock) -> Callable[[float], Stopwatch]:
    def make(seconds: float) -> Stopwatch:
        made = Stopwatch(torch.device("cpu"), seconds)
        made._clock = clock
        return made

    return make


def test_with_time_enough_everything_is_timed(clock: Clock, stopwatch: Callable[[float], Stopwatch]) -> None:
    # Times that no line fits.
    pieces = [clock.piece("a", size, seconds, 3) for size, seconds in ((1, 0.1), (2, 0.5), (3, 0.2))]
    watch = stopwatch(100.0)
    watch.look_at([(piece, False) for piece in pieces])
    assert watch.seconds(pieces) == pytest.approx(3 * 0.8)
    assert watch.left == pytest.approx(100 - 2 * 0.8), "each ran once to warm up and once for its time"


def test_what_is_not_timed_lies_on_the_line_of_its_kind(clock: Clock, stopwatch: Callable[[float], Stopwatch]) -> None:
    pieces = [clock.piece("a", size, 0.1 + 0.01 * size, count) for size, count in ((1, 1), (50, 1), (100, 9), (400, 1))]
    others = [clock.piece("b", 1, 0.2)]
    watch = stopwatch(4.5)
    watch.look_at([(piece, False) for piece in (*others, *pieces)])
    # The smallest of each kind; one more, because by that alone none can be paid; then what matters most.
    assert list(clock.runs) == [("b", 1), ("a", 1), ("a", 50), ("a", 100)]
    assert watch.seconds(pieces) == pytest.approx(0.11 + 0.6 + 9 * 1.1 + 4.1)
    assert watch.seconds(others) == pytest.approx(0.2)


def test_equal_pieces_are_timed_once(clock: Clock, stopwatch: Callable[[float], Stopwatch]) -> None:
    piece = clock.piece("a", 5, 0.5, 2)
    watch = stopwatch(10.0)
    watch.look_at([(piece, False), (piece, False)])
    assert clock.runs == {("a", 5): 2} and watch.seconds([piece, piece]) == pytest.approx(2.0)


@pytest.mark.parametrize("passes", [Passes(50, 25), Passes(400, 25), Passes(64, 8, backward=True)])
def test_pieces_of_a_large_network_are_its_whole_work(passes: Passes) -> None:
    structure = UNetStructure.from_config(SD1)
    pieces = float_network(structure, 77).pieces(passes)
    assert len({piece.key for piece in pieces}) < len(pieces), "alike parts are one piece"
    assert all(piece.size * (3 if passes.backward else 1) <= LARGEST_PIECE for piece in pieces)
    work = sum(piece.count * piece.size for piece in pieces)
    assert work == pytest.approx(passes.samples * count_network(structure, 77).flops), (
        "cut parts count as often as they are cut"
    )


def test_a_small_network_is_one_piece(tiny_model: Model) -> None:
    network = float_network(tiny_model.structure, tiny_model.conditioner.tokens)
    (piece,) = network.pieces(Passes(30, 10))
    assert piece.count == 10 and piece.size == 3 * count_network(tiny_model.structure, 16).flops


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("kind", ["float", "student"])
def test_parts_run(
    kind: str, backward: bool, tiny_model: Model, tiny_plan: SamplingPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "SMALL_NETWORK", 0.0)
    job = QuantizationJob(tiny_model, tiny_plan, load_recipe("w4a8"), ("a cat",), 4.0, device="cpu")
    networks: dict[str, Any] = {"float": float_network(job.structure, 16), "student": student_network(student_shape(job))}
    network: PartwiseNetwork = networks[kind]
    pieces = network.pieces(Passes(4, 2, backward))
    assert sum(piece.count * piece.size for piece in pieces) == pytest.approx(4 * job.counted.flops, rel=0.02), (
        "but for the norms"
    )
    for piece in pieces:
        piece.prepare(torch.device("cpu"))()
