"""What a training holds in memory, counted on the student without numbers."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from s2p_converters.core.graph import StepUNet
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.stages import Memory
from s2p_mobile.quantize.stages.counting import inputs_without_numbers
from s2p_mobile.quantize.student.network import StudentShape, student_shape

_FLOAT32 = 4


def training_memory(job: QuantizationJob, start: Memory) -> Memory:
    """Bytes of what training holds, beside and after what was held at its start.

    The allocator's and autograd's own needs are not counted.
    """
    rule, layers = job.recipe.training, job.layers
    weights = sum(layer.weights for layer in layers)
    learned = weights + sum(2 * layer.out_channels for layer in layers)
    frozen = 9 * weights if rule.freezing is not None else 0
    activations, largest, of_weights = saved_bytes(student_shape(job), job.branches)
    samples = rule.batch * job.branches
    kept = samples * activations
    if rule.checkpoint_activations:
        # Only the inputs of resnets and transformers stay, about one image each; one of them at a time is whole.
        kept = samples * (largest + activations // 10)
    if rule.precision == "bf16":
        kept = kept * 2 // 3  # convolutions and products keep halves, norms and rounding do not
    parts = {
        "student": _FLOAT32 * learned + (2 * weights if rule.freezing is not None else 0),
        "optimizer and averages": _FLOAT32 * learned * (2 + (rule.ema is not None)),
        "freezing": frozen,
        "gradients": _FLOAT32 * learned,
        "quantized weights": of_weights,
        "activations": kept,
        "state file": state_bytes(job),
    }
    held = ("student", "optimizer and averages", "freezing")
    return start.with_parts(parts, ((*held, "gradients", "quantized weights", "activations"), (*held, "state file")))


def state_bytes(job: QuantizationJob) -> int:
    """Of a saved training state, nearly: weights, two moments, averages, and what freezing follows."""
    rule, weights = job.recipe.training, sum(layer.weights for layer in job.layers)
    learned = weights + sum(2 * layer.out_channels for layer in job.layers)
    return _FLOAT32 * learned * (3 + (rule.ema is not None)) + (9 * weights if rule.freezing is not None else 0)


@functools.lru_cache(maxsize=4)
def saved_bytes(shape: StudentShape, branches: int) -> tuple[int, int, int]:
    """What a forward pass keeps for the backward pass: of one sample, of one sample in the largest resnet or transformer alone, and
    of the weights' size, whatever the batch.

    Args:
        branches: samples of a call.
    """
    with torch.device("meta"):
        student = shape.build()
    activations, largest, weights = _saved(student, inputs_without_numbers(shape.structure, branches, shape.tokens))
    return activations // branches, largest // branches, weights


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
