"""Passes through a network as pieces: each resnet, transformer and other layer, by itself and with numbers of no meaning.

Parts of the same shape are one piece, so a deep network costs little to time, and none of its weights is loaded. A small network is
one piece as a whole.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from s2p_converters.core.graph import Operators, StepUNet, UNetStructure, layer_specs
from s2p_converters.core.graph.operators import FloatLayer
from s2p_mobile.quantize.stages.counting import ShapeRows, count_network, inputs_without_numbers, operations_of
from s2p_mobile.quantize.stages.stage import Passes, Piece, Precision, Run

LARGEST_PIECE = 1e10
"""Operations of a piece at most; the batch, then the picture of a larger one is cut down and its count raised."""
SMALL_NETWORK = 2e10
"""A pass of at most so many operations is a piece as a whole."""
_LEAST_SIZE = 8
_WHOLE = ""
"""Name of a network among its modules."""

BuildNetwork = Callable[[UNetStructure], StepUNet]
"""Makes a network of a structure on torch's present default device, which is meta."""


@dataclass(frozen=True)
class EmptyPart:
    """A module on the meta device, and what it is given."""

    module: nn.Module
    inputs: tuple[Any, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """Alike for parts of the same shape."""
        weights = tuple(tuple(value.shape) for value in (*self.module.parameters(), *self.module.buffers()))
        return type(self.module).__name__, weights, *(tuple(value.shape) for value in self.inputs if isinstance(value, Tensor))

    def fill(self, device: torch.device, differentiable: bool) -> tuple[nn.Module, list[Any]]:
        """A copy with numbers of no meaning: the module, and its inputs, which ask for gradients or do not."""
        # The operators belong to the whole network; a copy of one part must not copy all others.
        operators = [getattr(child, "ops", None) for child in self.module.modules()]
        shared = {id(ops): ops for ops in operators if isinstance(ops, Operators)}
        return fill(copy.deepcopy(self.module, shared), device), [numbers(x, device, differentiable) for x in self.inputs]


class PartwiseNetwork:
    """A network timed part by part."""

    def __init__(
        self,
        kind: str,
        structure: UNetStructure,
        tokens: int,
        build: BuildNetwork,
        precision: Precision = "fp32",
    ) -> None:
        """
        Args:
            kind: of its pieces, see :class:`Piece`.
            tokens: N of the text.
            build: its parameters that ask for gradients get them in backward passes.
            precision: ``bf16`` runs under autocast.
        """
        self.kind, self.structure, self.tokens, self.build = kind, structure, tokens, build
        self.precision: Precision = precision
        self._parts: dict[tuple[UNetStructure, int], dict[str, EmptyPart]] = {}

    @cached_property
    def _operations(self) -> int:
        with torch.device("meta"):
            unet = self.build(self.structure)
        return operations_of(unet, inputs_without_numbers(self.structure, 1, self.tokens))

    def launches(self, passes: Passes) -> int:
        """See :class:`Network`; a backward pass starts as many as two forward ones."""
        whole = count_network(self.structure, self.tokens)
        share = whole.part_flops(passes.part) / whole.flops
        return round(passes.count * (3 if passes.backward else 1) * self._operations * share)

    def pieces(self, passes: Passes) -> Sequence[Piece]:
        """See :class:`Network`."""
        counted = count_network(self.structure, self.tokens)
        if passes.part is None and counted.flops * passes.batch * (3 if passes.backward else 1) <= SMALL_NETWORK:
            return [self._whole(passes, counted.flops)]
        batch, structure = self.cut(passes.batch, passes.part, passes.backward)
        whole, small = (count_network(shape, self.tokens) for shape in (self.structure, structure))
        kind = f"{self.kind} in {self.precision}{', backward' if passes.backward else ''}, batch {batch}"
        found = self.parts(structure, batch)
        return [
            Piece(
                kind,
                found[name].key,
                whole.part_flops(name) / small.part_flops(name) * passes.samples / batch,
                small.part_flops(name) * batch,
                _pass(found[name], passes.backward, self.precision),
            )
            for name in part_names(self.structure, passes.part)
        ]

    def _whole(self, passes: Passes, flops: int) -> Piece:
        part = self.parts(self.structure, passes.batch)[_WHOLE]
        kind = f"{self.kind} as a whole in {self.precision}{', backward' if passes.backward else ''}"
        run = _pass(part, passes.backward, self.precision)
        return Piece(kind, passes.batch, passes.samples / passes.batch, flops * passes.batch, run)

    def cut(self, batch: int, part: str | None, backward: bool) -> tuple[int, UNetStructure]:
        """Batch and structure with which no part is larger than :data:`LARGEST_PIECE`, or as near as possible."""
        structure = self.structure
        while True:
            counted = count_network(structure, self.tokens)
            largest = max(counted.part_flops(name) for name in part_names(structure, part)) * (3 if backward else 1)
            if largest * batch <= LARGEST_PIECE:
                return batch, structure
            if batch > 1:
                batch = max(1, min(batch - 1, int(LARGEST_PIECE // largest)))
                continue
            height, width = structure.sample_size
            if min(height, width) < 2 * _LEAST_SIZE:
                return batch, structure
            structure = replace(structure, sample_size=(height // 2, width // 2))

    def parts(self, structure: UNetStructure, batch: int) -> dict[str, EmptyPart]:
        """Every module of the network that a pass calls."""
        key = (structure, batch)
        if key not in self._parts:
            with torch.device("meta"):
                unet = self.build(structure)
            found: dict[str, EmptyPart] = {}

            def hook(name: str) -> Any:
                def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
                    found[name] = EmptyPart(module, inputs)

                return keep

            handles = [module.register_forward_pre_hook(hook(name)) for name, module in unet.named_modules()]
            with torch.no_grad():
                unet(*inputs_without_numbers(structure, batch, self.tokens))
            for handle in handles:
                handle.remove()
            self._parts[key] = found
        return self._parts[key]


def part_names(structure: UNetStructure, part: str | None = None) -> list[str]:
    """What is timed by itself: the part, or of the whole network every resnet, transformer and resampling, and the outer layers."""
    if part is not None:
        return [part]
    names = [spec.name.split(".") for spec in layer_specs(structure)]
    return list(dict.fromkeys(".".join(name[: 3 if name[0] == "mid_block" else 4]) for name in names))


def _pass(part: EmptyPart, backward: bool, precision: str) -> Callable[[torch.device], Run]:
    def prepare(device: torch.device) -> Run:
        module, inputs = part.fill(device, backward)
        learned = [value for value in (*module.parameters(), *inputs) if isinstance(value, Tensor) and value.requires_grad]

        def run() -> None:
            bf16 = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)
            with torch.set_grad_enabled(backward), bf16:
                output = module(*inputs)
            if backward:
                torch.autograd.grad(output, learned, torch.ones_like(output), allow_unused=True)

        return run

    return prepare


def fill(module: nn.Module, device: torch.device) -> nn.Module:
    """Give a module of the meta device memory elsewhere: small random weights, ones in buffers of floats, zeros in others."""
    module.to_empty(device=device)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.02)
        for buffer in module.buffers():
            buffer.fill_(1 if buffer.is_floating_point() else 0)
    return module


def numbers(value: Any, device: torch.device, differentiable: bool) -> Any:
    """The like of an input with numbers: random ones in activations, in the rows of a step positive ones, as scales are."""
    if isinstance(value, Mapping):
        return {
            name: torch.full_like(row, 0.05 if row.is_floating_point() else 0, device=device) for name, row in value.items()
        }
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.randn(value.shape, device=device).requires_grad_(differentiable)
    return torch.zeros_like(value, device=device) if isinstance(value, Tensor) else value


def float_network(structure: UNetStructure, tokens: int) -> PartwiseNetwork:
    """The FP graph, whose layers' weights alone get gradients in a backward pass."""

    def build(shape: UNetStructure) -> StepUNet:
        unet = StepUNet(shape, ShapeRows(shape), Operators()).requires_grad_(False)
        for module in unet.modules():
            if isinstance(module, FloatLayer):
                module.weight.requires_grad_(True)
        return unet

    return PartwiseNetwork("FP network", structure, tokens, build)
