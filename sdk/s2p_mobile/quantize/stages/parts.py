"""Passes through a network as pieces: each resnet, transformer and other layer, by itself and with numbers of no meaning.

Parts of the same shape are one piece, so a deep network costs little to time, and none of its weights is loaded. A small network is
one piece as a whole.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from s2p_converters.core.graph import Operators, StepUNet, UNetStructure, layer_specs
from s2p_converters.core.graph.operators import FloatLayer
from s2p_mobile.quantize.stages.counting import ShapeRows, count_network, inputs_without_numbers, operations_of
from s2p_mobile.quantize.stages.stage import Passes, Piece, Precision, Run

LARGEST_PIECE = 1e10
"""Operations of a piece at most; the batch, then the picture of a larger one is cut down and its count raised."""
SMALL_NETWORK = 2e10
"""A pass of at most so many operations is a piece as a whole."""
_LEAST_SIZE = 4
_WHOLE = ""
"""Name of a network among its modules."""

BuildNetwork = Callable[[], StepUNet]
"""Makes a network on torch's present default device, which is meta."""


@dataclass(frozen=True)
class EmptyPart:
    """A module on the meta device, and what it is given: a picture, perhaps a text, and the row of a step."""

    module: nn.Module
    inputs: tuple[Any, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """Alike for parts of the same shape."""
        weights = tuple(tuple(value.shape) for value in (*self.module.parameters(), *self.module.buffers()))
        return type(self.module).__name__, weights, *(tuple(value.shape) for value in self.inputs if isinstance(value, Tensor))

    @property
    def batch(self) -> int:
        """Samples."""
        return len(self.inputs[0])

    def of_batch(self, batch: int) -> EmptyPart:
        """The same for another number of samples."""
        return EmptyPart(self.module, tuple(_map(value, lambda x: x.new_empty(batch, *x.shape[1:])) for value in self.inputs))

    def halved(self) -> EmptyPart | None:
        """The same for pictures of half the height and width; None where they are small already."""
        picture, *others = self.inputs
        if picture.dim() == 4:
            height, width = picture.shape[2:]
            if min(height, width) < 2 * _LEAST_SIZE:
                return None
            return EmptyPart(self.module, (picture.new_empty(*picture.shape[:2], height // 2, width // 2), *others))
        samples, positions, channels = picture.shape
        if positions < 4 * _LEAST_SIZE**2:
            return None
        return EmptyPart(self.module, (picture.new_empty(samples, positions // 4, channels), *others))

    def fill(self, device: torch.device, differentiable: bool) -> tuple[nn.Module, list[Any]]:
        """A copy with numbers of no meaning: the module, and its inputs, which ask for gradients or do not."""
        # The operators belong to the whole network; a copy of one part must not copy all others.
        operators = [getattr(child, "ops", None) for child in self.module.modules()]
        shared = {id(ops): ops for ops in operators if isinstance(ops, Operators)}
        return fill(copy.deepcopy(self.module, shared), device), [numbers(x, device, differentiable) for x in self.inputs]


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Mapping):
        return {name: change(row) for name, row in value.items()}
    return change(value) if isinstance(value, Tensor) else value


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
        self._cut_flops: dict[tuple[str, int], int] = {}

    @cached_property
    def _walked(self) -> tuple[dict[str, EmptyPart], int]:
        """Every module that a pass calls, for one sample, and the torch operations of the pass."""
        with torch.device("meta"):
            unet = self.build()
        found: dict[str, EmptyPart] = {}

        def hook(name: str) -> Any:
            def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
                found[name] = EmptyPart(module, inputs)

            return keep

        handles = [module.register_forward_pre_hook(hook(name)) for name, module in unet.named_modules()]
        operations = operations_of(unet, inputs_without_numbers(self.structure, 1, self.tokens))
        for handle in handles:
            handle.remove()
        return found, operations

    def part(self, name: str, batch: int, times: int, limit: float = LARGEST_PIECE) -> tuple[EmptyPart, float]:
        """A module by name, and operations of a forward pass of it: cut until ``times`` passes are within a limit, or nearly."""
        part, flops = self._walked[0][name].of_batch(batch), self.flops(name) * batch
        if times * flops > limit and batch > 1:
            fitting = max(1, int(batch * limit / (times * flops)))
            part, flops = part.of_batch(fitting), self.flops(name) * fitting
        halvings = 0
        while times * flops > limit and (smaller := part.halved()) is not None:
            part, halvings = smaller, halvings + 1
            flops = self.flops(name, halvings) * part.batch
        return part, flops

    def flops(self, name: str, halvings: int = 0) -> int:
        """Operations of one sample in a module whose picture was halved so often."""
        if halvings == 0:
            return count_network(self.structure, self.tokens).part_flops(name or None)
        key = (name, halvings)
        plain = float_network(self.structure, self.tokens)
        if key not in plain._cut_flops:
            part: EmptyPart | None = plain._walked[0][name]
            for _ in range(halvings):
                assert part is not None
                part = part.halved()
            assert part is not None
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                part.module(*part.inputs)
            plain._cut_flops[key] = counter.get_total_flops()
        return plain._cut_flops[key]

    def launches(self, passes: Passes) -> int:
        """See :class:`Network`; a backward pass starts as many as two forward ones."""
        whole = count_network(self.structure, self.tokens)
        share = whole.part_flops(passes.part) / whole.flops
        return round(passes.count * (3 if passes.backward else 1) * self._walked[1] * share)

    def pieces(self, passes: Passes) -> Sequence[Piece]:
        """See :class:`Network`; no pass has no pieces."""
        if not passes.samples:
            return []
        times = 3 if passes.backward else 1
        kind = f"{self.kind} in {self.precision}{', backward' if passes.backward else ''}"
        names = part_names(self.structure, passes.part)
        if passes.part is None and times * self.flops(_WHOLE) * passes.batch <= SMALL_NETWORK:
            kind, names = f"{kind}, whole", [_WHOLE]
        pieces = []
        for name in names:
            part, flops = self.part(name, passes.batch, times, LARGEST_PIECE if name != _WHOLE else SMALL_NETWORK)
            count = passes.samples * self.flops(name) / flops
            pieces.append(Piece(kind, part.key, count, flops, _pass(part, passes.backward, self.precision)))
        return pieces


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
            half = torch.float16 if precision == "fp16" else torch.bfloat16
            bf16 = torch.autocast(device.type, half, enabled=precision != "fp32", cache_enabled=False)
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


@functools.lru_cache(maxsize=8)
def float_network(structure: UNetStructure, tokens: int) -> PartwiseNetwork:
    """The FP graph, whose layers' weights alone get gradients in a backward pass."""

    def build() -> StepUNet:
        unet = StepUNet(structure, ShapeRows(structure), Operators()).requires_grad_(False)
        for module in unet.modules():
            if isinstance(module, FloatLayer):
                module.weight.requires_grad_(True)
        return unet

    return PartwiseNetwork("FP network", structure, tokens, build)
