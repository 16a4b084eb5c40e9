"""Declared stages turned into operations and seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from s2p_mobile.quantize.compute import ComputePlan
from s2p_mobile.quantize.forecast.gpus import LAUNCH_SECONDS, UTILISATION, Gpu
from s2p_mobile.quantize.forecast.stopwatch import Stopwatch
from s2p_mobile.quantize.stages import Counted, Network, Passes, Piece, Stage


@dataclass(frozen=True)
class StageTime:
    """A stage in numbers.

    Attributes:
        flops: of its passes; a backward pass is two forward ones.
        forward, backward: passes, those of a part by the part's share of the network's operations.
        samples: that go forward, counted in the same way.
        by_passes: seconds that passes take here.
        by_work: seconds of other work on the device, and of work on the processor.
    """

    stage: Stage
    flops: float
    samples: float
    forward: float
    backward: float
    by_passes: float
    by_work: tuple[float, float]

    @property
    def seconds(self) -> float:
        """On this machine."""
        return self.by_passes + sum(self.by_work)


class Timing:
    """Times all stages of a job together, so that the effort goes where the time goes."""

    def __init__(
        self, stages: Sequence[Stage], counted: Counted, fp: Network, device: torch.device, recomputes: bool = False
    ) -> None:
        """
        Args:
            fp: the network of passes that name none.
            recomputes: blocks run again in backward passes.
        """
        self.counted, self.fp, self.recomputes = counted, fp, recomputes
        self.stopwatch = Stopwatch(device)
        pieces = [([p for passes in stage.passes for p in self._network(passes).pieces(passes)], stage) for stage in stages]
        self.stopwatch.look_at([(piece, stage.on_host) for found, stage in pieces for piece in (*found, *stage.work)])
        self.stages = [self._measured(stage, found) for found, stage in pieces]

    @property
    def seconds(self) -> float:
        """On this machine."""
        return sum(stage.seconds for stage in self.stages)

    def seconds_of(self, stages: Sequence[Stage]) -> float:
        """On this machine, of other stages of the same kinds of work; nothing more is timed."""
        self.stopwatch.left = 0.0
        pieces = [([p for passes in stage.passes for p in self._network(passes).pieces(passes)], stage) for stage in stages]
        self.stopwatch.look_at([(piece, stage.on_host) for found, stage in pieces for piece in (*found, *stage.work)])
        return sum(self._measured(stage, found).seconds for found, stage in pieces)

    def gpu_seconds(self, gpu: Gpu, plan: ComputePlan) -> tuple[float, float]:
        """On a machine with a GPU: of what runs there, and of what stays on a processor like this one's.

        Other work than passes is taken to be as much faster there as the passes are.

        Args:
            plan: how the networks compute there.
        """
        there = here = host = work = 0.0
        for time in self.stages:
            if time.stage.on_host:
                host += time.seconds
                continue
            here += time.by_passes
            work += time.by_work[0]
            host += time.by_work[1]
            for passes in time.stage.passes:
                network = self._network(passes)
                peak = gpu.peak(plan.graph if passes.network is None else plan.training)
                # What runs again in the backward pass is declared where it is so here; a third of the work where it is so there.
                again = 4 / 3 if passes.backward and plan.recompute and not self.recomputes else 1.0
                there += again * self._flops(passes) / (UTILISATION * peak) + network.launches(passes) * LAUNCH_SECONDS
        return there + (work * there / here if here else work), host

    def _network(self, passes: Passes) -> Network:
        return passes.network or self.fp

    def _flops(self, passes: Passes) -> float:
        return passes.samples * (3 if passes.backward else 1) * self.counted.part_flops(passes.part)

    def _measured(self, stage: Stage, found: Sequence[Piece]) -> StageTime:
        share = [self.counted.part_flops(passes.part) / self.counted.flops for passes in stage.passes]
        pairs = list(zip(stage.passes, share, strict=True))
        watch = self.stopwatch
        return StageTime(
            stage,
            flops=sum(map(self._flops, stage.passes)),
            samples=sum(passes.samples * part for passes, part in pairs),
            forward=sum(passes.count * part for passes, part in pairs),
            backward=sum(passes.count * part for passes, part in pairs if passes.backward),
            by_passes=watch.seconds(found, stage.on_host),
            by_work=(
                watch.seconds([piece for piece in stage.work if not piece.on_host], stage.on_host),
                watch.seconds([piece for piece in stage.work if piece.on_host], stage.on_host),
            ),
        )
