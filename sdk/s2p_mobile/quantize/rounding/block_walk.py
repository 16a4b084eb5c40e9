"""Inputs and outputs of the parts of a graph, block after block, so that no block is run for the sake of those behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from s2p_converters.core.graph import LayerSpec, StepUNet
from s2p_mobile.quantize.rounding.calls import CalibrationCalls
from s2p_mobile.quantize.rounding.waiting import Rows, WaitingRoom
from s2p_mobile.quantize.stages.counting import is_inside


class _Seen(Exception):
    """Ends a forward pass once the wanted module was reached."""


def reconstruction_units(specs: Sequence[LayerSpec]) -> list[tuple[str, list[LayerSpec]]]:
    """What is reconstructed together, in the order in which it runs: a resnet, a transformer layer, or any other layer alone."""
    units: dict[str, list[LayerSpec]] = {}
    for spec in specs:
        units.setdefault(_unit_name(spec.name), []).append(spec)
    return list(units.items())


def _unit_name(layer: str) -> str:
    parts = layer.split(".")
    # The innermost of the two kinds: a transformer layer lies in no resnet, nor the other way round.
    for kind in ("transformer_blocks", "resnets"):
        if kind in parts:
            return ".".join(parts[: parts.index(kind) + 2])
    return layer


class BlockWalk:
    """A graph on calibration calls, stopped at the entrance of one of its :class:`~s2p_converters.core.graph.Unit` s: a resnet with
    its transformer, a resampling, or an outer layer.

    The states at the entrance are kept, so that the inputs of what is reconstructed cost the run of their own part only.
    """

    def __init__(
        self,
        unet: StepUNet,
        calls: CalibrationCalls,
        room: WaitingRoom,
        precision: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
        together: int = 16,
    ) -> None:
        """
        Args:
            unet: of one dtype, or of float32 parameters under ``precision``.
            room: where the samples wait.
            precision: entered for every run.
            together: samples that run at a time.
        """
        self.unet, self.calls, self.room, self.precision, self.together = unet, calls, room, precision, together
        self._parts = unet.units()
        self._position = 0
        self._state = room.of(calls.samples)
        self._skips: list[Rows] = []

    def close(self) -> None:
        """Let go of the samples."""
        for rows in (self._state, *self._skips):
            rows.free()

    @torch.no_grad()
    def advance_to(self, unit: str) -> None:
        """Go to the part that holds the unit; parts on the way run as they are now."""
        target = next(k for k, part in enumerate(self._parts) if any(is_inside(unit, name) for name in part.modules))
        while self._position < target:
            self._advance()

    def _advance(self) -> None:
        """Run the present part on all samples; what it makes takes the place of what it was given."""
        state: Rows | None = None
        skips: list[Rows] = []
        for part in self._batches():
            x, left = self._run(part)
            state = state or self.room.rows(self.calls.count, x.shape[1:])
            state.put(part.start, x)
            for place in range(len(self._skips), len(left)):
                if len(skips) <= place - len(self._skips):
                    skips.append(self.room.rows(self.calls.count, left[place].shape[1:]))
                skips[place - len(self._skips)].put(part.start, left[place])
        assert state is not None
        self._state.free()
        for used in self._skips[len(left) :]:
            used.free()
        self._state, self._skips = state, [*self._skips[: len(left)], *skips]
        self._position += 1

    def _batches(self) -> Iterator[slice]:
        count = self.calls.count
        return (slice(begin, min(begin + self.together, count)) for begin in range(0, count, self.together))

    def _run(self, part: slice) -> tuple[Tensor, list[Tensor]]:
        """One batch through the present part."""
        unet, dtype = self.unet, self.unet.dtype
        calls = self.calls.part(part)
        context, *of_prompt = (condition.to(unet.device, dtype) for condition in calls.conditions)
        x, skips = self._state.get(part).to(dtype), [rows.get(part).to(dtype) for rows in self._skips]
        with self.precision():
            # The first condition is for the blocks, the others are for the tables.
            row = unet.row(calls.calls.to(unet.device), *of_prompt)
            return self._parts[self._position](x, skips, context, row), skips

    @torch.no_grad()
    def capture(self, unit: str, output: bool) -> tuple[list[Rows], Rows | None]:
        """Tensor inputs of a unit for all samples, and its output when asked for."""
        self.advance_to(unit)
        inputs: list[Rows] = []
        outputs: list[Rows] = []

        def keep(rows: list[Rows], part: slice, values: Sequence[Tensor]) -> None:
            for place, value in enumerate(values):
                if len(rows) <= place:
                    rows.append(self.room.rows(self.calls.count, value.shape[1:]))
                rows[place].put(part.start, value)

        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            keep(inputs, part, [arg for arg in args if isinstance(arg, Tensor)])
            if not output:
                raise _Seen

        def after(module: nn.Module, args: tuple[Any, ...], result: Tensor) -> None:
            keep(outputs, part, [result])
            raise _Seen

        module = self.unet.get_submodule(unit)
        handles = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
        try:
            for part in self._batches():
                with contextlib.suppress(_Seen):
                    self._run(part)
        finally:
            for handle in handles:
                handle.remove()
        return inputs, outputs[0] if output else None


def run_calls(unet: StepUNet, calls: CalibrationCalls, size: int) -> Iterator[int]:
    """Run a graph on calibration calls, ``size`` at a time, for what its hooks see; gives the samples done so far."""
    done = 0
    for batch in calls.batches(size):
        with torch.no_grad():
            unet(batch.samples, batch.calls, *batch.conditions)
        done += batch.count
        yield done
