"""The network in training: built from a job, written out as quantized layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from s2p_converters.core.checkpoint import QuantizedLayer
from s2p_converters.core.graph import StepUNet, layer_specs, split_shortcuts
from s2p_converters.core.graph.operators import FloatLayer
from s2p_mobile.quantize.grid import weight_scale
from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.student.layers import StudentLayer, StudentOperators, reset
from s2p_mobile.quantize.student.tables import TrainedTables
from s2p_mobile.quantize.time_path import job_time_path


@dataclass(frozen=True)
class StudentSpec:
    """What is decided before training.

    Attributes:
        weight_bits: bits of every quantized layer, in the order in which they run.
        activation_scales: initial activation table, float32 [T, L], or None.
        activation_zeros: layer -> zero point of its input's grid; 0 where a layer is missing.
        float_inputs: layers whose inputs are not rounded; their columns of the table are not used.
        weights: layer -> weights to start from; the model's own where a layer is missing.
        call_weights: of the calls in the loss, float32 [T] with mean 1; None: all alike.
    """

    weight_bits: dict[str, int]
    activation_scales: Tensor | None
    activation_zeros: Mapping[str, int] = field(default_factory=dict)
    float_inputs: frozenset[str] = frozenset()
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    call_weights: Tensor | None = None


def build_student(job: QuantizationJob, spec: StudentSpec, device: torch.device | None = None) -> StepUNet:
    """The quantized graph at its starting point, layer by layer on its device.

    Args:
        device: the processor when None.
    """
    recipe = job.recipe
    operators = student_operators(job, spec)
    tables = TrainedTables(job_time_path(job), list(spec.weight_bits), spec.activation_scales, recipe.activations.per_step)
    with torch.device("meta"):
        # Empty at first: the large tensors are made where they stay.
        student = job.model.denoiser.graph(job.structure, nn.Module(), operators)
    student.to_empty(device=device or "cpu")
    student.tables = tables.to(student.device)
    source = split_shortcuts(job.model.unet.state_dict(), job.structure)
    for name, module in student.named_modules():
        if isinstance(module, StudentLayer):
            reset(module)
            original = FloatLayer(module.spec)
            bias = source.pop(f"{name}.bias", None)
            original.weight.data = source.pop(f"{name}.weight")
            if original.bias is not None and bias is not None:
                original.bias.data = bias
            original.to(student.device)
            scale = weight_scale(original.weight.data, module.weight_bits, recipe.weights.search)
            if name in spec.weights:
                original.weight.data = spec.weights[name].to(student.device)
            module.start_from(original, scale)
    student.load_state_dict(source, strict=False)
    learned = {id(parameter) for _, parameter in learned_parameters(student)}
    assert isinstance(student.tables, TrainedTables)
    student.tables.learns_time = recipe.time == "table"
    for parameter in student.parameters():
        parameter.requires_grad_(id(parameter) in learned)
    return student


def student_operators(job: QuantizationJob, spec: StudentSpec) -> StudentOperators:
    """What makes the layers of a job's student."""
    training = job.recipe.training
    return StudentOperators(
        spec.weight_bits,
        job.recipe.activations.bits,
        learns_weights=training.learn == "weights",
        freezes=training.freezing is not None,
        activation_zeros=spec.activation_zeros,
        float_inputs=spec.float_inputs,
    )


def student_layers(student: StepUNet) -> dict[str, StudentLayer]:
    """Quantized layers by name, in the order in which they run."""
    modules = {name: module for name, module in student.named_modules() if isinstance(module, StudentLayer)}
    return {spec.name: modules[spec.name] for spec in layer_specs(student.structure) if spec.name in modules}


def learned_parameters(student: StepUNet) -> Iterator[tuple[str, nn.Parameter]]:
    """Everything that the optimizer moves, by name. Unquantized layers stay as they are."""
    for name, layer in student_layers(student).items():
        for part, parameter in layer.named_parameters():
            yield f"{name}.{part}", parameter
    if isinstance(student.tables, TrainedTables) and student.tables.log_scales is not None:
        yield "tables.log_scales", student.tables.log_scales
    yield from learned_floats(student)


def learned_floats(student: StepUNet) -> Iterator[tuple[str, nn.Parameter]]:
    """The part of :func:`learned_parameters` that no layer owns: ``tables.time``, ``<norm>.gain`` and ``<norm>.shift``."""
    assert isinstance(student.tables, TrainedTables)
    if student.tables.learns_time:
        yield "tables.time", student.tables.time_rows
    for name, norm in _norms(student):
        yield f"{name}.gain", norm.weight
        yield f"{name}.shift", norm.bias


def _norms(student: StepUNet) -> Iterator[tuple[str, nn.GroupNorm | nn.LayerNorm]]:
    for name, module in student.named_modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            yield name, module


@torch.no_grad()
def quantized_unet(student: StepUNet) -> QuantizedUNet:
    """The student's integers, scales and biases, its norms and, when they are learned, its time tables."""
    assert isinstance(student.tables, TrainedTables)
    floats: dict[str, NDArray[np.float32]] = {}
    for name, norm in _norms(student):
        floats |= {f"{name}.weight": norm.weight.cpu().numpy().copy(), f"{name}.bias": norm.bias.cpu().numpy().copy()}
    tables = student.tables.time_tables if student.tables.learns_time else {}
    return QuantizedUNet(
        _quantized_layers(student),
        floats,
        {name: table.cpu().numpy() for name, table in tables.items()},
        split_shortcuts=student.structure.split_shortcuts,
    )


def _quantized_layers(student: StepUNet) -> Mapping[str, QuantizedLayer]:
    assert isinstance(student.tables, TrainedTables)
    table = student.tables.scales
    layers = {}
    for column, (name, layer) in enumerate(student_layers(student).items()):
        layers[name] = QuantizedLayer(
            spec=layer.spec,
            weight_bits=layer.weight_bits,
            activation_bits=layer.activation_bits,
            stored=layer.integers().cpu().numpy(),
            scale=layer.scale.cpu().numpy().astype(np.float16),
            bias=None if layer.bias is None else layer.bias.detach().cpu().numpy().astype(np.float32),
            activation_scale=None if table is None or layer.activation_bits is None else table[:, column].cpu().numpy().copy(),
            activation_zero=layer.activation_zero,
        )
    return layers
