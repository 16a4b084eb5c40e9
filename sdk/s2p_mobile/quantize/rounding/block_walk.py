"""Inputs and outputs of the parts of a graph, block after block, so that no block is run for the sake of those behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from s2p_converters.core.graph import LayerSpec, StepUNet
from s2p_mobile.quantize.rounding.calls import CalibrationCalls

WALK_BATCH = 16
"""Samples that a walk runs at a time."""


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
    """A graph on calibration calls, stopped at the entrance of a top-level part (conv_in, a block, or the end).

    The states at the entrance are kept, so that a unit's inputs cost the run of its own part only.
    """

    def __init__(self, unet: StepUNet, calls: CalibrationCalls) -> None:
        self.unet = unet
        self._batches = list(calls.batches(WALK_BATCH))
        # The first condition is for the blocks, the others are for the tables.
        self._rows = [unet.row(batch.calls, *batch.conditions[1:]) for batch in self._batches]
        self._parts: list[tuple[str, nn.Module | None]] = [("conv_in", None), *unet.named_blocks(), ("conv_out", None)]
        self._position = 0
        self._states: list[tuple[Tensor, list[Tensor]]] = [(batch.samples, []) for batch in self._batches]

    @torch.no_grad()
    def advance_to(self, unit: str) -> None:
        """Go to the part that holds the unit; parts on the way run as they are now."""
        target = next(k for k, (name, _) in enumerate(self._parts) if unit == name or unit.startswith(f"{name}."))
        while self._position < target:
            self._states = [self._run(k) for k in range(len(self._batches))]
            self._position += 1

    def _run(self, index: int) -> tuple[Tensor, list[Tensor]]:
        """One batch through the present part."""
        name, block = self._parts[self._position]
        (x, skips), row, unet = self._states[index], self._rows[index], self.unet
        if name == "conv_in":
            x = unet.conv_in(x, row)
            return x, [x]
        if block is None:
            return unet.conv_out(unet.ops.silu(unet.ops.group_norm(x, unet.conv_norm_out)), row), []
        skips = list(skips)
        return block(x, skips, self._batches[index].conditions[0], row), skips

    @torch.no_grad()
    def capture(self, unit: str, output: bool) -> tuple[list[Tensor], Tensor | None]:
        """Tensor inputs of a unit for all samples, each [n, ...], and its output when asked for."""
        self.advance_to(unit)
        inputs: list[tuple[Tensor, ...]] = []
        outputs: list[Tensor] = []

        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            inputs.append(tuple(arg for arg in args if isinstance(arg, Tensor)))
            if not output:
                raise _Seen

        def after(module: nn.Module, args: tuple[Any, ...], result: Tensor) -> None:
            outputs.append(result)
            raise _Seen

        module = self.unet.get_submodule(unit)
        handles = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
        try:
            for index in range(len(self._batches)):
                try:
                    self._run(index)
                except _Seen:
                    continue
        finally:
            for handle in handles:
                handle.remove()
        gathered = [torch.cat(column) for column in zip(*inputs, strict=True)]
        return gathered, torch.cat(outputs) if output else None


def run_calls(unet: StepUNet, calls: CalibrationCalls, size: int) -> Iterator[int]:
    """Run a graph on calibration calls, ``size`` at a time, for what its hooks see; gives the samples done so far."""
    done = 0
    for batch in calls.batches(size):
        with torch.no_grad():
            unet(batch.samples, batch.calls, *batch.conditions)
        done += batch.count
        yield done
