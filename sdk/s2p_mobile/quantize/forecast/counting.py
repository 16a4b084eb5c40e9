"""Arithmetic and memory of one sample, counted on the network's own graph without numbers (torch's meta device)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from s2p_converters.core.graph import LayerSpec, Operators, StepTables, StepUNet, UNetStructure, layer_specs, resnet_names
from s2p_mobile.quantize.recipes import Recipe
from s2p_mobile.quantize.training.fake_quant import TrainedOperators, TrainedTables


@dataclass(frozen=True)
class LayerWork:
    """One layer at work: its input's shape for a batch of one, and operations of a forward pass."""

    spec: LayerSpec
    input_shape: tuple[int, ...]
    flops: int


@dataclass(frozen=True)
class Counted:
    """What a U-Net takes, by counting.

    Attributes:
        flops: floating-point operations of a forward pass of one sample (a multiplication and an addition are two).
        layers: the same by layer.
        saved_bytes: tensors that one sample's training keeps for the backward pass, weights aside.
        block_bytes: those of the largest resnet or transformer alone.
        operations: torch operations of a forward pass; on a GPU each is at least one kernel.
        weight_bytes: tensors of the weights' size that the backward pass needs, whatever the batch.
    """

    flops: int
    layers: tuple[LayerWork, ...]
    saved_bytes: int
    block_bytes: int
    weight_bytes: int
    operations: int


def count_unet(
    structure: UNetStructure, recipe: Recipe, bits: Sequence[str], calls: int, tokens: int, branches: int
) -> Counted:
    """Count a U-Net at its own picture size.

    Args:
        bits: names of the quantized layers.
        calls: T.
        tokens: N of the text.
        branches: samples of a pair.
    """
    with torch.device("meta"):
        inputs = (
            torch.empty(branches, structure.in_channels, *structure.sample_size),
            torch.zeros(branches, dtype=torch.int64),
            torch.empty(branches, tokens, structure.context_dim),
        )
        student = _student(structure, recipe, bits, calls)
        teacher = StepUNet(structure, _time_rows(structure, calls), Operators())
    flops, layers = _flops(teacher, inputs, branches)
    saved, largest, weights = _saved(student, inputs)
    with _CountingMode() as mode, torch.no_grad():
        student(*inputs)
    return Counted(flops, layers, saved // branches, largest // branches, weights, mode.operations)


class _CountingMode(TorchDispatchMode):
    """Counts what torch dispatches."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += not function.is_view
        return function(*args, **(kwargs or {}))


def _time_rows(structure: UNetStructure, calls: int) -> StepTables:
    """Time rows of the right widths."""
    return StepTables({f"{name}.time": torch.empty(calls, width) for name, width in resnet_names(structure).items()})


def _student(structure: UNetStructure, recipe: Recipe, bits: Sequence[str], calls: int) -> StepUNet:
    scales = None if recipe.activations.bits is None else torch.empty(calls, len(bits))
    tables = TrainedTables(_time_rows(structure, calls), list(bits), scales, recipe.activations.per_step)
    freezes = recipe.training.freezing is not None
    return StepUNet(structure, tables, TrainedOperators(dict.fromkeys(bits, 8), recipe.activations.bits, freezes))


def _flops(unet: StepUNet, inputs: Sequence[Tensor], samples: int) -> tuple[int, tuple[LayerWork, ...]]:
    """Of one sample."""
    specs = {spec.name: spec for spec in layer_specs(unet.structure)}
    shapes: dict[str, tuple[int, ...]] = {}

    def hook(name: str) -> Any:
        def keep(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            shapes[name] = (1, *given[0].shape[1:])

        return keep

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in unet.named_modules() if name in specs]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(*inputs)
    for handle in handles:
        handle.remove()
    work = tuple(LayerWork(specs[name], shape, _layer_flops(specs[name], shape)) for name, shape in shapes.items())
    return counter.get_total_flops() // samples, work


def _layer_flops(spec: LayerSpec, shape: tuple[int, ...]) -> int:
    if spec.kind == "linear":
        return 2 * spec.weights * shape[1]
    height, width = ((n + 2 * spec.padding - spec.kernel) // spec.stride + 1 for n in shape[2:])
    return 2 * spec.weights * height * width


def _saved(student: StepUNet, inputs: Sequence[Tensor]) -> tuple[int, int, int]:
    """Bytes kept for the backward pass: of activations, of the largest resnet or transformer, of weights."""
    known = {tensor.untyped_storage()._cdata for tensor in (*student.parameters(), *student.buffers())}
    kept: list[Tensor] = []  # alive, so that a storage's address stands for it alone
    batch = inputs[0].shape[0]
    totals = {"activations": 0, "weights": 0}

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage()._cdata
        if address not in known:
            known.add(address)
            kept.append(tensor)
            # Quantized weights and their ratios have the weight's shape; what a batch makes begins with it.
            part = "activations" if tensor.dim() and tensor.shape[0] == batch else "weights"
            totals[part] += tensor.untyped_storage().nbytes()
        return tensor

    blocks = [module for _, block in student.named_blocks() for module in _recomputed(block)]
    before: dict[int, int] = {}
    largest = [0]

    def begin(module: nn.Module, given: Any) -> None:
        before[id(module)] = totals["activations"]

    def end(module: nn.Module, given: Any, output: Any) -> None:
        largest[0] = max(largest[0], totals["activations"] - before[id(module)])

    for module in blocks:
        module.register_forward_pre_hook(begin)
        module.register_forward_hook(end)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        student(*inputs)
    return totals["activations"], largest[0], totals["weights"]


def _recomputed(block: nn.Module) -> Iterable[nn.Module]:
    """The modules that ``checkpoint_activations`` runs again."""
    for group in ("resnets", "attentions"):
        modules = getattr(block, group)
        assert isinstance(modules, nn.ModuleList)
        yield from modules
