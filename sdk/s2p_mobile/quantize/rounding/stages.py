"""What block-wise reconstruction takes: how often each unit runs while two graphs walk, and the optimizer steps on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from s2p_converters.core.graph import LayerSpec, layer_specs
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.rounding.block_walk import reconstruction_units
from s2p_mobile.quantize.rounding.learned import (
    SCALES_STAGE,
    WEIGHTS_STAGE,
    RoundingRule,
    ScaleRule,
    learn_rounding,
    learn_scales,
)
from s2p_mobile.quantize.rounding.memory import reconstruction_memory
from s2p_mobile.quantize.rounding.network import TIMED_ITERATIONS, LearnedUnits, rounded_network
from s2p_mobile.quantize.stages import Network, Passes, Piece, Stage
from s2p_mobile.quantize.stages.parts import PartwiseNetwork, float_network


@dataclass(frozen=True)
class Reconstruction:
    """What is reconstructed.

    Attributes:
        layers: that are rounded, in the order in which they run.
        samples: calibration samples that walk through both graphs.
        attention: the operands of attention are rounded with the activations.
    """

    job: QuantizationJob
    layers: Sequence[LayerSpec]
    samples: int
    attention: bool = False

    def weights_stage(self, rule: RoundingRule, work: Sequence[Piece] = ()) -> Stage:
        """AdaRound on every unit.

        Args:
            work: of the stage beside it.
        """
        network = self.network(grids=False)
        timed = replace(rule, iterations=TIMED_ITERATIONS)
        learn = partial(learn_rounding, rule=timed, generator=torch.Generator().manual_seed(0))
        learned = LearnedUnits("learned rounding", network, learn)
        walks = self._walk(self._teacher, output=True)
        if rule.quantized_inputs:
            walks += self._walk(network, output=False)
        return self._stage(WEIGHTS_STAGE, learned, rule, walks, work)

    def scales_stage(self, rule: ScaleRule) -> Stage:
        """LSQ on the activation scales of every unit, whose inputs are the FP graph's."""
        learn = partial(
            learn_scales, rule=replace(rule, iterations=TIMED_ITERATIONS), generator=torch.Generator().manual_seed(0)
        )
        learned = LearnedUnits("learned scales", self.network(grids=True), learn)
        return self._stage(SCALES_STAGE, learned, rule, self._walk(self._teacher, output=True), ())

    @property
    def _tokens(self) -> int:
        return self.job.model.conditioner.tokens

    @property
    def _teacher(self) -> Network:
        return float_network(self.job.structure, self._tokens)

    def network(self, grids: bool) -> PartwiseNetwork:
        """The rounded graph; with ``grids`` its activations are rounded too."""
        names = frozenset(layer.name for layer in self.layers)
        return rounded_network(self.job.structure, self._tokens, names, grids=grids, attention=self.attention)

    def _walk(self, network: Network, output: bool) -> list[Passes]:
        """How often each unit runs while a :class:`~s2p_mobile.quantize.rounding.block_walk.BlockWalk` visits those that are
        reconstructed: a visit runs the units before it in its part of the graph, and itself where its output is wanted; a part that
        is left for the next runs once as a whole."""
        blocks: dict[str, list[str]] = {}
        for unit, layers in reconstruction_units(layer_specs(self.job.structure)):
            blocks.setdefault(_part_of(layers[0].name), []).append(unit)
        wanted = [unit for unit, _ in reconstruction_units(self.layers)]
        last = _part_of(wanted[-1])
        batches = -(-self.samples // self.job.compute.samples)
        passes, left = [], True
        for block, units in blocks.items():
            left = left and block != last
            for position, unit in enumerate(units):
                visits = sum(other in wanted for other in units[position + (not output) :])
                if runs := visits + left:
                    passes.append(Passes(runs * self.samples, runs * batches, network=network, part=unit))
        return passes

    def _stage(
        self, name: str, learned: LearnedUnits, rule: RoundingRule | ScaleRule, walks: list[Passes], work: Sequence[Piece]
    ) -> Stage:
        units = [unit for unit, _ in reconstruction_units(self.layers)]
        batch = min(rule.batch, self.samples)
        steps = [Passes(rule.iterations * batch, rule.iterations, True, learned, unit) for unit in units]
        memory = reconstruction_memory(self.job, self.layers, self.samples, batch)
        return Stage(name, len(units), (*walks, *steps), work, memory=memory)


def _part_of(layer: str) -> str:
    """The :class:`~s2p_converters.core.graph.Unit` of the graph that a layer belongs to; a resnet and its transformer are one."""
    block, *rest = layer.split(".")
    if not rest:
        return block
    kind, place = rest[:2] if block == "mid_block" else rest[1:3]
    prefix = block if block == "mid_block" else f"{block}.{rest[0]}"
    return f"{prefix}.{place}" if kind in ("resnets", "attentions") else f"{prefix}.{kind}"
