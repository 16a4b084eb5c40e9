"""Block-wise reconstruction: weights are rounded up or down such that a unit's output stays the FP one's (BRECQ, ICLR 2021)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
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
from s2p_mobile.quantize.rounding.waiting import Rows, WaitingRoom

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
        calls: int64 [n], on the processor.
        targets: FP outputs, [n, ...].
        of_prompt: what step tables take beside the calls, [n, ...] each, on the processor.
        precision: entered when the unit runs.
    """

    inputs: Sequence[Rows]
    calls: Tensor
    targets: Rows
    of_prompt: tuple[Tensor, ...] = ()
    precision: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext


class HalfWay(Protocol):
    """Where learning on a unit is kept before it is finished."""

    def load(self) -> dict[str, Tensor] | None:
        """What was kept, if anything was."""

    def save(self, tensors: Callable[[], dict[str, Tensor]]) -> None:
        """Keep, if it is time to."""


class _NotKept:
    """Learning on a unit begins anew when it was interrupted."""

    def load(self) -> dict[str, Tensor] | None:
        """See :class:`HalfWay`."""
        return None

    def save(self, tensors: Callable[[], dict[str, Tensor]]) -> None:
        """See :class:`HalfWay`."""


NOT_KEPT = _NotKept()


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


def learn_rounding(
    unit: nn.Module,
    tables: nn.Module,
    data: UnitData,
    rule: RoundingRule,
    generator: torch.Generator,
    half_way: HalfWay = NOT_KEPT,
) -> None:
    """Learn h of all weights of a unit, and fix it.

    Args:
        tables: step -> row, of the unit's graph.
        half_way: where it is kept before it is finished.
    """
    layers = rounded_layers(unit)
    variables = [weight.begin() for layer in layers for weight in layer.parts]

    def loss(found: Tensor, target: Tensor, iteration: int) -> Tensor:
        exponent = rule.exponent(iteration)
        error = output_error(found, target, 2.0)
        return error if exponent is None else error + rule.weight * rounding_penalty(layers, exponent)

    optimizer = torch.optim.Adam(variables, lr=rule.learning_rate)
    _descend(unit, tables, data, optimizer, loss, rule.iterations, rule.batch, generator, half_way=half_way)
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


def learn_scales(
    unit: nn.Module,
    tables: nn.Module,
    data: UnitData,
    rule: ScaleRule,
    generator: torch.Generator,
    half_way: HalfWay = NOT_KEPT,
) -> None:
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
    after: Callable[[], None] | None = None, half_way: HalfWay = NOT_KEPT,
) -> None:  # fmt: skip
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for iteration in range(_resume(parameters, optimizer, generator, half_way), iterations):
        chosen = torch.randperm(data.targets.count, generator=generator)[:batch]
        target = data.targets.get(chosen)
        optimizer.zero_grad(set_to_none=True)
        with data.precision():
            row = tables(*(value[chosen].to(target.device) for value in (data.calls, *data.of_prompt)))
            found = unit(*(value.get(chosen) for value in data.inputs), row)
        loss(found.float(), target, iteration).backward()
        optimizer.step()
        if after is not None:
            after()
        half_way.save(partial(_so_far, parameters, optimizer, generator, iteration + 1))


def _so_far(
    parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, generator: torch.Generator, iterations: int
) -> dict[str, Tensor]:
    """Everything that the next iterations depend on; a schedule's place follows from the number of iterations alone."""
    found = {"generator": generator.get_state(), "iterations": torch.tensor(iterations)}
    for place, parameter in enumerate(parameters):
        state = optimizer.state[parameter]
        found |= {f"value.{place}": parameter, f"first.{place}": state["exp_avg"], f"second.{place}": state["exp_avg_sq"]}
    return found


def _resume(
    parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, generator: torch.Generator, half_way: HalfWay
) -> int:
    """Go on from what was kept; gives the iterations that are done."""
    found = half_way.load()
    if found is None or any(found[f"value.{k}"].shape != value.shape for k, value in enumerate(parameters)):
        return 0
    iterations = int(found["iterations"])
    generator.set_state(found["generator"])
    with torch.no_grad():
        for place, parameter in enumerate(parameters):
            parameter.copy_(found[f"value.{place}"])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(iterations)),
                "exp_avg": found[f"first.{place}"].to(parameter),
                "exp_avg_sq": found[f"second.{place}"].to(parameter),
            }
    return iterations


class LearnUnit(Protocol):
    """Learns on one unit."""

    def __call__(self, unit: nn.Module, tables: nn.Module, data: UnitData, *, half_way: HalfWay = ...) -> None: ...


class Kept(Protocol):
    """Units that need not learn, because they did before."""

    def restore(self, name: str, unit: nn.Module) -> bool:
        """Give a unit what it learned; False if nothing is kept of it."""

    def half_way(self, name: str) -> HalfWay:
        """Where learning on a unit is kept before it is finished."""

    def store(self, name: str, unit: nn.Module) -> None:
        """Keep what a unit learned."""


def reconstruct(
    job: QuantizationJob,
    network: RoundedNetwork,
    calls: CalibrationCalls,
    learn: LearnUnit,
    quantized_inputs: bool,
    title: str,
    detail: str,
    room: WaitingRoom,
    kept: Kept | None = None,
) -> None:
    """Let every unit learn in the order in which they run.

    Args:
        learn: called for every unit.
        quantized_inputs: units see the student's own inputs, else the FP model's.
        title, detail: of the progress stage.
        room: where samples wait.
        kept: where finished units are kept, if anywhere.
    """
    units = [unit for unit, _ in reconstruction_units(network.specs)]
    together = job.compute.samples
    fp = BlockWalk(network.teacher, calls, room, together=together)
    own = BlockWalk(network.student, calls, room, network.precision, together) if quantized_inputs else None
    with job.progress.stage(title, len(units)) as advance:
        for name in units:
            unit = network.student.get_submodule(name)
            if kept is None or not kept.restore(name, unit):
                inputs, targets = fp.capture(name, output=True)
                assert targets is not None
                if own is not None:
                    _free(inputs)
                    inputs, _ = own.capture(name, output=False)
                data = UnitData(inputs, calls.calls, targets, calls.conditions[1:], network.precision)
                half_way = NOT_KEPT if kept is None else kept.half_way(name)
                learn(unit, network.student.tables, data, half_way=half_way)
                _free([*inputs, targets])
                if kept is not None:
                    kept.store(name, unit)
            advance(detail)
    fp.close()
    if own is not None:
        own.close()


def _free(rows: Sequence[Rows]) -> None:
    for each in rows:
        each.free()


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
    job: QuantizationJob, network: RoundedNetwork, calls: CalibrationCalls, published: RoundingRule, room: WaitingRoom
) -> None:
    """AdaRound on every unit by :func:`scaled_rounding`."""
    rule = scaled_rounding(job, published)
    learn = partial(learn_rounding, rule=rule, generator=torch.Generator().manual_seed(job.seed))
    detail = f"({rule.iterations} iterations a unit, {published.iterations} published; {calls.count} samples)"
    reconstruct(job, network, calls, learn, rule.quantized_inputs, WEIGHTS_STAGE, detail, room)


def reconstruct_scales(
    job: QuantizationJob, network: RoundedNetwork, calls: CalibrationCalls, published: ScaleRule, room: WaitingRoom
) -> None:
    """LSQ on the activation scales of every unit, FP inputs, by :func:`scaled_scales`."""
    rule = scaled_scales(job, published)
    learn = partial(learn_scales, rule=rule, generator=torch.Generator().manual_seed(job.seed + 1))
    detail = f"({rule.iterations} iterations a unit, {published.iterations} published)"
    reconstruct(job, network, calls, learn, False, SCALES_STAGE, detail, room)
