"""Block-wise reconstruction: weights are rounded up or down such that a unit's output stays the FP one's (BRECQ, ICLR 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.recipes.baselines import LARGEST_RATE
from s2p_mobile.quantize.rounding.block_walk import BlockWalk, reconstruction_units
from s2p_mobile.quantize.rounding.calls import CalibrationCalls
from s2p_mobile.quantize.rounding.layers import InputGrid, RoundedLayer
from s2p_mobile.quantize.rounding.rounded import RoundedNetwork
from s2p_runtime.progress import Progress

WEIGHTS_STAGE = "learning the rounding of weights"
SCALES_STAGE = "learning activation scales"


@dataclass(frozen=True)
class RoundingRule:
    """How rounding is learned.

    Attributes:
        weight: of the term that drives h to 0 or 1.
        beta: its exponent, from the first value to the second, linearly after the warm-up.
        warmup: share of the iterations without that term.
        quantized_inputs: a unit sees what the units before it, already rounded, give; else FP inputs.
    """

    iterations: int
    batch: int
    learning_rate: float
    quantized_inputs: bool
    warmup: float
    weight: float = 0.01
    beta: tuple[float, float] = (20.0, 2.0)

    def exponent(self, iteration: int) -> float | None:
        """Beta at an iteration; None during the warm-up."""
        start = self.warmup * self.iterations
        if iteration < start:
            return None
        rest = (self.iterations - iteration) / (self.iterations - start)
        return self.beta[1] + (self.beta[0] - self.beta[1]) * rest


@dataclass(frozen=True)
class UnitData:
    """What one unit sees and should give.

    Attributes:
        inputs: tensor arguments, each [n, ...].
        calls: int64 [n].
        targets: FP outputs, [n, ...].
        of_prompt: what step tables take beside the calls, [n, ...] each.
    """

    inputs: Sequence[Tensor]
    calls: Tensor
    targets: Tensor
    of_prompt: tuple[Tensor, ...] = ()


def output_error(found: Tensor, target: Tensor, power: float) -> Tensor:
    """``|found - target|^power``, summed over the second axis and averaged over the others, as in BRECQ."""
    return (found - target).abs().pow(power).sum(dim=1).mean()


def rounding_penalty(layers: Sequence[RoundedLayer], exponent: float) -> Tensor:
    """``sum (1 - |2 h - 1|^exponent)`` over all weights: zero exactly when every h is 0 or 1."""
    terms = [(1 - (2 * weight.softness() - 1).abs().pow(exponent)).sum() for layer in layers for weight in layer.parts]
    return torch.stack(terms).sum()


def rounded_layers(unit: nn.Module) -> list[RoundedLayer]:
    """The rounded layers of a unit (itself, when it is one)."""
    return [module for module in unit.modules() if isinstance(module, RoundedLayer)]


def learn_rounding(unit: nn.Module, tables: nn.Module, data: UnitData, rule: RoundingRule, generator: torch.Generator) -> None:
    """Learn h of all weights of a unit, and fix it.

    Args:
        tables: step -> row, of the unit's graph.
    """
    layers = rounded_layers(unit)
    variables = [weight.begin() for layer in layers for weight in layer.parts]

    def loss(found: Tensor, target: Tensor, iteration: int) -> Tensor:
        exponent = rule.exponent(iteration)
        error = output_error(found, target, 2.0)
        return error if exponent is None else error + rule.weight * rounding_penalty(layers, exponent)

    optimizer = torch.optim.Adam(variables, lr=rule.learning_rate)
    _descend(unit, tables, data, optimizer, loss, rule.iterations, rule.batch, generator)
    for layer in layers:
        for weight in layer.parts:
            weight.finish()


@dataclass(frozen=True)
class ScaleRule:
    """How activation scales are learned.

    Attributes:
        learning_rate: of the factor on a scale; falls to zero as a cosine.
        power: exponent of the error.
    """

    iterations: int
    batch: int
    learning_rate: float
    power: float


def learn_scales(unit: nn.Module, tables: nn.Module, data: UnitData, rule: ScaleRule, generator: torch.Generator) -> None:
    """Learn one factor on each activation grid of a unit; zero points stay (LSQ)."""
    factors = [grid.factor for grid in unit.modules() if isinstance(grid, InputGrid)]
    for factor in factors:
        factor.requires_grad_(True)
    optimizer = torch.optim.Adam(factors, lr=rule.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=rule.iterations, eta_min=0.0)

    def loss(found: Tensor, target: Tensor, iteration: int) -> Tensor:
        return output_error(found, target, rule.power)

    def step() -> None:
        schedule.step()
        with torch.no_grad():
            # A scale cannot be negative; at this bound the tensor would be clipped to a hundredth of its range.
            for factor in factors:
                factor.clamp_(min=0.01)

    _descend(unit, tables, data, optimizer, loss, rule.iterations, rule.batch, generator, step)
    for factor in factors:
        factor.requires_grad_(False)


def _descend(
    unit: nn.Module, tables: nn.Module, data: UnitData, optimizer: torch.optim.Optimizer,
    loss: Callable[[Tensor, Tensor, int], Tensor], iterations: int, batch: int, generator: torch.Generator,
    after: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    count = data.targets.shape[0]
    for iteration in range(iterations):
        chosen = torch.randperm(count, generator=generator)[:batch].to(data.targets.device)
        optimizer.zero_grad(set_to_none=True)
        row = tables(data.calls[chosen], *(value[chosen] for value in data.of_prompt))
        found = unit(*(value[chosen] for value in data.inputs), row)
        loss(found, data.targets[chosen], iteration).backward()
        optimizer.step()
        if after is not None:
            after()


LearnUnit = Callable[[nn.Module, nn.Module, UnitData], None]


class Kept(Protocol):
    """Units that need not learn, because they did before."""

    def restore(self, name: str, unit: nn.Module) -> bool:
        """Give a unit what it learned; False if nothing is kept of it."""

    def store(self, name: str, unit: nn.Module) -> None:
        """Keep what a unit learned."""


def reconstruct(
    network: RoundedNetwork,
    calls: CalibrationCalls,
    learn: LearnUnit,
    quantized_inputs: bool,
    progress: Progress,
    title: str,
    detail: str = "",
    kept: Kept | None = None,
) -> None:
    """Let every unit learn in the order in which they run.

    Args:
        learn: called as ``learn(unit, tables, data)``.
        quantized_inputs: units see the student's own inputs, else the FP model's.
        title, detail: of the progress stage.
        kept: where finished units are kept, if anywhere.
    """
    units = [unit for unit, _ in reconstruction_units(network.specs)]
    fp = BlockWalk(network.teacher, calls)
    own = BlockWalk(network.student, calls) if quantized_inputs else None
    with progress.stage(title, len(units)) as advance:
        for name in units:
            unit = network.student.get_submodule(name)
            if kept is None or not kept.restore(name, unit):
                inputs, targets = fp.capture(name, output=True)
                assert targets is not None
                if own is not None:
                    inputs.clear()  # memory: many samples wait here
                    inputs, _ = own.capture(name, output=False)
                learn(unit, network.student.tables, UnitData(inputs, calls.calls, targets, calls.conditions[1:]))
                if kept is not None:
                    kept.store(name, unit)
            advance(detail)


def scaled_rounding(job: QuantizationJob, published: RoundingRule) -> RoundingRule:
    """The published rule with its iterations and rate scaled as the recipe says."""
    scaling = job.recipe.baselines
    return replace(
        published,
        iterations=scaling.iterations(published.iterations),
        learning_rate=scaling.rounding_rate(published.learning_rate),
    )


def scaled_scales(job: QuantizationJob, published: ScaleRule) -> ScaleRule:
    """As :func:`scaled_rounding`."""
    scaling = job.recipe.baselines
    return replace(
        published,
        iterations=scaling.iterations(published.iterations),
        learning_rate=min(LARGEST_RATE, published.learning_rate * scaling.factor),
    )


def reconstruct_weights(
    job: QuantizationJob, network: RoundedNetwork, calls: CalibrationCalls, published: RoundingRule
) -> None:
    """AdaRound on every unit by :func:`scaled_rounding`."""
    rule = scaled_rounding(job, published)
    learn = partial(learn_rounding, rule=rule, generator=torch.Generator().manual_seed(job.seed))
    detail = f"({rule.iterations} iterations a unit, {published.iterations} published; {calls.count} samples)"
    reconstruct(network, calls, learn, rule.quantized_inputs, job.progress, WEIGHTS_STAGE, detail)


def reconstruct_scales(job: QuantizationJob, network: RoundedNetwork, calls: CalibrationCalls, published: ScaleRule) -> None:
    """LSQ on the activation scales of every unit, FP inputs, by :func:`scaled_scales`."""
    rule = scaled_scales(job, published)
    learn = partial(learn_scales, rule=rule, generator=torch.Generator().manual_seed(job.seed + 1))
    detail = f"({rule.iterations} iterations a unit, {published.iterations} published)"
    reconstruct(network, calls, learn, False, job.progress, SCALES_STAGE, detail)
