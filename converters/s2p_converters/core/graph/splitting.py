"""The U-Net as several programs that run one after the other, for devices that cannot hold the whole.

A program ends between two units (:class:`.step_unet.Unit`: a resnet with its attention, a resampler, the first or
the last convolution). The tensor behind unit k is called ``hidden_k``. A program takes what it needs of the U-Net's own inputs
and of the tensors of earlier programs, and gives what later ones need, each once: on the way down the hidden state is a skip too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from s2p_converters.core.graph.operators import Operators, StepRow
from s2p_converters.core.graph.step_unet import StepUNet, Unit
from s2p_converters.core.graph.structure import UNetStructure, resnet_names
from s2p_converters.core.graph.tables import StepTables
from s2p_runtime.errors import S2PError

SAMPLE, STEP, CONTEXT, TIME_TABLE, OUTPUT = "sample", "step", "encoder_hidden_states", "time_table", "noise_pred"


@dataclass(frozen=True)
class Chunk:
    """Units ``start`` to ``stop - 1``.

    Attributes:
        modules: names below the U-Net of what they run.
        uses_context: whether any looks at the text.
        skips: skips of earlier programs that it consumes, the last one first consumed.
        outputs: what later programs need, or ``noise_pred``.
        shapes: [B, C, H, W] of every tensor between programs, by name.
    """

    start: int
    stop: int
    modules: tuple[str, ...]
    uses_context: bool
    skips: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def hidden(self) -> str:
        """The tensor that its first unit takes."""
        return _behind(self.start - 1) if self.start else SAMPLE

    @property
    def crossing_inputs(self) -> tuple[str, ...]:
        """Tensors that it takes from earlier programs, each once."""
        names = (*([self.hidden] if self.start else []), *self.skips)
        return tuple(dict.fromkeys(names))

    def holds(self, name: str) -> bool:
        """Whether a module, a parameter or a step column of this name belongs to it."""
        return any(name == module or name.startswith(f"{module}.") for module in self.modules)


def check_count(structure: UNetStructure, count: int) -> None:
    """
    Raises:
        S2PError: fewer than one or more programs than there are units.
    """
    most = len(_meta_unet(structure).units())
    if not 1 <= count <= most:
        raise S2PError(f"`chunks={count}` is out of range", f"this U-Net splits into 1 to {most} programs", "chunks")


def plan_chunks(
    structure: UNetStructure, count: int, costs: Mapping[str, int], sample: Sequence[int], context: Sequence[int]
) -> tuple[Chunk, ...]:
    """Cut so that the most expensive program is as cheap as possible; of all such cuts, those with the least data between programs.

    The smallest possible largest cost comes from the exact recursion over all contiguous partitions; a second recursion minimizes
    the number of elements alive at the cuts among partitions that do not exceed it.

    Args:
        costs: bytes of each layer's weights, by name.
        sample: [B, C, H, W]; context: [B, N, D].

    Raises:
        S2PError: fewer than one or more programs than there are units.
    """
    check_count(structure, count)
    units = _meta_unet(structure).units()
    alive, shapes = _trace(units, structure, sample, context)
    unit_costs = [sum(cost for name, cost in costs.items() if _within(name, unit)) for unit in units]
    crossing = [sum(math.prod(shapes[name]) for name in {_behind(k), *skips}) for k, skips in enumerate(alive)]
    bounds = [0, *best_cuts(unit_costs, crossing, count), len(units)]
    return tuple(_chunk(units, alive, shapes, start, stop) for start, stop in itertools.pairwise(bounds))


def _chunk(
    units: Sequence[Unit], alive: Sequence[tuple[str, ...]], shapes: Mapping[str, tuple[int, ...]], start: int, stop: int
) -> Chunk:
    """Units ``start`` to ``stop - 1``; ``alive`` holds the skips behind each unit."""
    before = alive[start - 1] if start else ()
    # Skips are a stack: what lies below its lowest level was not touched.
    touched = before[min(len(skips) for skips in (before, *alive[start:stop])) :]
    made = {_behind(index) for index in range(start, stop)}
    needed = [name for name in alive[stop - 1] if name in made]
    outputs = tuple(dict.fromkeys([*needed, _behind(stop - 1)])) if stop < len(units) else (OUTPUT,)
    modules = tuple(name for unit in units[start:stop] for name in unit.modules)
    uses_context = any(unit.uses_context for unit in units[start:stop])
    return Chunk(start, stop, modules, uses_context, tuple(touched), outputs, shapes)


def best_cuts(costs: Sequence[int], crossing: Sequence[int], count: int) -> list[int]:
    """Starts of the second to last of ``count`` contiguous groups.

    Args:
        costs: of each item.
        crossing: data alive behind each item.

    Returns:
        ``count - 1`` ascending indices: the largest group's cost is the smallest possible one, the sum of ``crossing`` at the cuts
        the smallest among such partitions.
    """
    total = [0, *itertools.accumulate(costs)]
    n = len(costs)
    # smallest[k] = smallest possible largest cost of the first k items in the groups so far.
    smallest: list[float] = [0.0, *([math.inf] * n)]
    for _ in range(count):
        smallest = [math.inf] + [
            min(max(smallest[start], total[stop] - total[start]) for start in range(stop)) for stop in range(1, n + 1)
        ]
    limit = smallest[n]
    data: list[tuple[float, list[int]]] = [(0.0, []), *([(math.inf, [])] * n)]
    for group in range(count):
        new: list[tuple[float, list[int]]] = [(math.inf, [])]
        for stop in range(1, n + 1):
            options = [
                (data[start][0] + (crossing[start - 1] if group else 0), [*data[start][1], start])
                for start in range(stop)
                if total[stop] - total[start] <= limit and data[start][0] < math.inf
            ]
            new.append(min(options, default=(math.inf, [])))
        data = new
    return data[n][1][1:]


def chunk_tables(tables: nn.Module, chunk: Chunk) -> StepTables | None:
    """The columns of :class:`StepTables` that a chunk needs, or None; a time table that calls bring is taken whole or not at all."""
    if not isinstance(tables, StepTables):
        return None
    columns = {name: part for name, part in tables.columns.items() if chunk.holds(name)}
    brought = tables.of_prompt
    of_prompt = brought if brought is not None and any(chunk.holds(name) for name in brought.names) else None
    return StepTables(columns, of_prompt) if columns or of_prompt is not None else None


class LooksUpRows(Protocol):
    """Tables of a chunk.

    Attributes:
        of_prompt: None where calls bring no table of the prompt's.
    """

    @property
    def of_prompt(self) -> object | None: ...


def chunk_inputs(chunk: Chunk, tables: LooksUpRows | None) -> tuple[str, ...]:
    """Names of what a chunk takes: of the U-Net's own inputs, then of the tensors of earlier programs."""
    own = {
        SAMPLE: chunk.start == 0,
        STEP: tables is not None,
        CONTEXT: chunk.uses_context,
        TIME_TABLE: tables is not None and tables.of_prompt is not None,
    }
    return (*(name for name, needed in own.items() if needed), *chunk.crossing_inputs)


class UNetChunk(nn.Module):
    """Some units of a U-Net as a module of their own. Parameters keep their names below the U-Net, by which emission finds them."""

    def __init__(self, unet: StepUNet, chunk: Chunk, inputs: Sequence[str], tables: nn.Module | None) -> None:
        """
        Args:
            unet: shares its modules.
            inputs: names of the forward's arguments, in order: of ``sample``, ``step``, ``encoder_hidden_states``, ``time_table`` and
                the tensors of earlier programs.
            tables: step tables of its own columns; None: it has none.
        """
        super().__init__()
        self.chunk, self.inputs = chunk, tuple(inputs)
        self._units = unet.units()[chunk.start : chunk.stop]
        self.ops, self.tables = unet.ops, tables
        for unit in self._units:
            for name, module in unit.modules.items():
                _adopt(self, name, module)

    def own_names(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs under the U-Net's own names; subclasses take others."""
        return values

    def _row(self, values: Mapping[str, Tensor]) -> StepRow:
        if self.tables is None:
            return {}
        row: StepRow = self.tables(*(values[name] for name in (STEP, TIME_TABLE) if name in values))
        return row

    def forward(self, *values: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The chunk's outputs in order; a single one not in a tuple."""
        known = self.own_names(dict(zip(self.inputs, values, strict=True)))
        row = self._row(known)
        skips = [known[name] for name in self.chunk.skips]
        x = known[self.chunk.hidden]
        context = self.ops.text(known[CONTEXT]) if CONTEXT in known else None
        for index, unit in enumerate(self._units, self.chunk.start):
            x = unit(x, skips, context, row)  # type: ignore[arg-type]  # units that ignore the text get none
            known[_behind(index)] = x
        if self.chunk.outputs == (OUTPUT,):
            return x
        found = tuple(known[name] for name in self.chunk.outputs)
        return found[0] if len(found) == 1 else found


def _adopt(root: nn.Module, name: str, module: nn.Module) -> None:
    *path, last = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    root.add_module(last, module)


def _behind(unit: int) -> str:
    """Name of the tensor behind a unit."""
    return f"hidden_{unit}"


def _within(name: str, unit: Unit) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in unit.modules)


def _meta_unet(structure: UNetStructure) -> StepUNet:
    """The graph without numbers, to ask for its units and shapes."""
    with torch.device("meta"):
        return StepUNet(structure, nn.Identity(), Operators())


def _trace(
    units: Sequence[Unit], structure: UNetStructure, sample: Sequence[int], context: Sequence[int]
) -> tuple[list[tuple[str, ...]], dict[str, tuple[int, ...]]]:
    """Names of the skips behind each unit, and the shape of every tensor behind a unit."""
    row = {f"{name}.time": torch.empty(1, width, device="meta") for name, width in resnet_names(structure).items()}
    x, text = (torch.empty(tuple(shape), device="meta") for shape in (sample, context))
    skips: list[Tensor] = []
    outputs: list[Tensor] = []
    alive = []
    for unit in units:
        x = unit(x, skips, text, row)
        outputs.append(x)
        alive.append(tuple(_behind(next(k for k, made in enumerate(outputs) if made is skip)) for skip in skips))
    return alive, {_behind(k): tuple(made.shape) for k, made in enumerate(outputs)}
