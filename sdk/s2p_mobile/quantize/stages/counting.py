"""Arithmetic of a U-Net, counted on its graph without numbers (torch's meta device)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from s2p_converters.core.graph import LayerSpec, Operators, StepUNet, UNetStructure, layer_specs, resnet_names


@dataclass(frozen=True)
class LayerWork:
    """One layer at work: its input's shape for a batch of one, and operations of a forward pass."""

    spec: LayerSpec
    input_shape: tuple[int, ...]
    flops: int

    @property
    def values(self) -> int:
        """Numbers of its input, a batch of one."""
        return int(torch.Size(self.input_shape).numel())


@dataclass(frozen=True)
class Counted:
    """What a forward pass of one sample takes, by counting.

    Attributes:
        flops: floating-point operations (a multiplication and an addition are two).
        layers: each layer's, in the order in which they run.
        modules: the same of every module that computes anything, by name.
    """

    flops: int
    layers: tuple[LayerWork, ...]
    modules: Mapping[str, int]

    def part_flops(self, part: str | None) -> int:
        """Operations of a module, by name; of the whole network for None."""
        return self.flops if part is None else self.modules[part]


def is_inside(layer: str, part: str) -> bool:
    """Whether a layer is a module or lies inside of it."""
    return layer == part or layer.startswith(f"{part}.")


class ShapeRows(nn.Module):
    """Step rows of the right widths; they say nothing."""

    def __init__(self, structure: UNetStructure) -> None:
        super().__init__()
        self.widths = resnet_names(structure)

    def forward(self, step: Tensor, *of_prompt: Any) -> Mapping[str, Tensor]:
        """Step indices [S] -> ``<resnet>.time`` [S, C]."""
        return {f"{name}.time": step.new_zeros(len(step), width, dtype=torch.float32) for name, width in self.widths.items()}


def inputs_without_numbers(structure: UNetStructure, batch: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sample, call indices and text of a U-Net call on the meta device."""
    with torch.device("meta"):
        return (
            torch.empty(batch, structure.in_channels, *structure.sample_size),
            torch.zeros(batch, dtype=torch.int64),
            torch.empty(batch, tokens, structure.context_dim),
        )


@functools.lru_cache(maxsize=8)
def count_network(structure: UNetStructure, tokens: int) -> Counted:
    """Count the FP graph at its own picture size.

    Args:
        tokens: N of the text.
    """
    with torch.device("meta"):
        unet = StepUNet(structure, ShapeRows(structure), Operators())
    specs = {spec.name: spec for spec in layer_specs(structure)}
    shapes: dict[str, tuple[int, ...]] = {}

    def hook(name: str) -> Any:
        def keep(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            shapes[name] = tuple(given[0].shape)

        return keep

    for name, module in unet.named_modules():
        if name in specs:
            module.register_forward_pre_hook(hook(name))
    inputs = inputs_without_numbers(structure, 1, tokens)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(*inputs)
    root = f"{type(unet).__name__}."
    modules = {
        name.removeprefix(root): sum(counts.values())
        for name, counts in counter.get_flop_counts().items()
        if name.startswith(root)
    }
    work = tuple(LayerWork(specs[name], shape, modules[name]) for name, shape in shapes.items())
    return Counted(counter.get_total_flops(), work, modules)


def operations_of(module: nn.Module, inputs: Sequence[Any]) -> int:
    """Torch operations of a forward pass on the meta device; on a GPU each is at least one kernel."""
    with _CountingMode() as mode, torch.no_grad():
        module(*inputs)
    return mode.operations


class _CountingMode(TorchDispatchMode):
    """Counts what torch dispatches."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += not function.is_view
        return function(*args, **(kwargs or {}))
