"""The student without numbers, for what is counted and timed before there is one."""

from __future__ import annotations

import torch

from s2p_converters.core.graph import StepTables, StepUNet, UNetStructure, resnet_names
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.stages.parts import PartwiseNetwork
from s2p_mobile.quantize.stages.stage import Precision
from s2p_mobile.quantize.student.fake_quant import TrainedOperators, TrainedTables


def student_network(job: QuantizationJob, precision: Precision = "fp32") -> PartwiseNetwork:
    """The student of a job, timed part by part."""
    tokens = job.model.conditioner.tokens
    return PartwiseNetwork("student", job.structure, tokens, lambda shape: empty_student(job, shape), precision)


def empty_student(job: QuantizationJob, structure: UNetStructure) -> StepUNet:
    """The student of a job at any picture size, on torch's present default device."""
    recipe, names, calls = job.recipe, [layer.name for layer in job.layers], len(job.plan.calls)
    rows = StepTables({f"{name}.time": torch.empty(calls, width) for name, width in resnet_names(structure).items()})
    scales = None if recipe.activations.bits is None else torch.empty(calls, len(names))
    tables = TrainedTables(rows, names, scales, recipe.activations.per_step)
    freezes = recipe.training.freezing is not None
    # Of no consequence for time and memory: which layer has how many bits.
    bits = dict.fromkeys(names, recipe.weights.bits)
    return StepUNet(structure, tables, TrainedOperators(bits, recipe.activations.bits, freezes))
