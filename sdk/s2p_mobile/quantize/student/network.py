"""The student without numbers, for what is counted and timed before there is one."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from s2p_converters.core.graph import StepTables, StepUNet, UNetStructure, resnet_names
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.stages.parts import PartwiseNetwork
from s2p_mobile.quantize.stages.stage import Precision
from s2p_mobile.quantize.student.layers import StudentOperators
from s2p_mobile.quantize.student.tables import TrainedTables

_BITS = 8
"""Of every weight grid; of no consequence for time and memory."""


@dataclass(frozen=True)
class StudentShape:
    """What of a job decides the time and memory of its student.

    Attributes:
        tokens: N of the text.
        layers: names of the quantized layers.
        calls: T.
        activation_bits: None: activations stay in float.
        per_step: an activation scale for every call.
        learns_weights: else scales alone are learned.
        freezes: weights may be frozen.
    """

    structure: UNetStructure
    tokens: int
    layers: tuple[str, ...]
    calls: int
    activation_bits: int | None
    per_step: bool
    learns_weights: bool
    freezes: bool

    def build(self) -> StepUNet:
        """The student on torch's present default device."""
        rows = {f"{name}.time": torch.empty(self.calls, width) for name, width in resnet_names(self.structure).items()}
        scales = None if self.activation_bits is None else torch.empty(self.calls, len(self.layers))
        tables = TrainedTables(StepTables(rows), list(self.layers), scales, self.per_step)
        operators = StudentOperators(
            dict.fromkeys(self.layers, _BITS),
            self.activation_bits,
            learns_weights=self.learns_weights,
            freezes=self.freezes,
        )
        return StepUNet(self.structure, tables, operators)


def student_shape(job: QuantizationJob) -> StudentShape:
    """Of a job's student."""
    activations = job.recipe.activations
    return StudentShape(
        job.structure,
        job.model.conditioner.tokens,
        tuple(layer.name for layer in job.layers),
        len(job.plan.calls),
        activations.bits,
        activations.per_step,
        job.recipe.training.learn == "weights",
        job.recipe.training.freezing is not None,
    )


@functools.lru_cache(maxsize=8)
def student_network(shape: StudentShape, precision: Precision = "fp32") -> PartwiseNetwork:
    """A student timed part by part."""
    return PartwiseNetwork("student", shape.structure, shape.tokens, shape.build, precision)
