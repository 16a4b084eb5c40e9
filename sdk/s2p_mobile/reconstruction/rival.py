"""A rival's graph: what it quantizes, built from a job, and written out."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from s2p_converters.unet import LayerSpec, StepUNet, layer_specs
from s2p_converters.unet.operators import FloatLayer
from s2p_converters.unet.structure import UNetStructure
from s2p_mobile.latents import LatentDataset
from s2p_mobile.preparation.latents import job_latents
from s2p_mobile.preparation.starting_point import planned_bits
from s2p_mobile.quantization.job import QuantizationJob, QuantizedUNet
from s2p_mobile.reconstruction.layers import IndexedTables, RivalLayer, RivalOperators
from s2p_mobile.training.time_path import job_time_path
from s2p_mobile.trajectory import float_unet
from s2p_mobile.workers import Workers

EDGE_BITS = 8
"""Width of conv_in and conv_out where a method quantizes them."""


@dataclass(frozen=True)
class Rival:
    """
    Attributes:
        teacher: the FP graph.
        student: the same with rounded layers.
        layers: the rounded layers by name, in the order in which they run.
        calls: T.
        activation_bits: of the recipe; None: float.
        attention: whether the operands of attention are rounded too.
    """

    teacher: StepUNet
    student: StepUNet
    layers: dict[str, RivalLayer]
    calls: int
    activation_bits: int | None
    attention: bool

    @property
    def specs(self) -> list[LayerSpec]:
        """The rounded layers' descriptions."""
        return [layer.spec for layer in self.layers.values()]

    def add_input_grids(self) -> None:
        """Begin to round activations; the grids wait to be set."""
        if self.activation_bits is None:
            return
        for name, layer in self.layers.items():
            bits = EDGE_BITS if name in ("conv_in", "conv_out") else self.activation_bits
            layer.add_grids(self.calls, bits, self.attention and name.endswith((".to_q", ".to_k", ".to_v")))
        assert isinstance(self.student.ops, RivalOperators)
        self.student.ops.softmax_bits = 16 if self.attention else None

    def export(self) -> QuantizedUNet:
        """As the checkpoint holds it."""
        assert isinstance(self.student.ops, RivalOperators)
        general = {name: layer.export() for name, layer in self.layers.items()}
        return QuantizedUNet({}, general=general, softmax_bits=self.student.ops.softmax_bits)


@contextlib.contextmanager
def rival_latents(job: QuantizationJob) -> Iterator[tuple[LatentDataset, torch.device]]:
    """FP trajectories of the job's prompts (kept for the time of the ``with`` only, unless the job names a set), and the device."""
    workers = Workers(job.device)
    with tempfile.TemporaryDirectory(prefix="s2p-mobile-") as folder:
        yield job_latents(job, Path(folder), workers), workers.device


def rival_bits(job: QuantizationJob, teacher: StepUNet, edges: bool) -> dict[str, int]:
    """Width of every quantized layer: the recipe's plan, which S2P gets too.

    Args:
        teacher: the FP graph, on the CPU.
        edges: conv_in and conv_out are quantized as well, to 8 bits.
    """
    bits = planned_bits(job, teacher)
    every = layer_specs(job.model.structure)
    if edges:
        bits |= {every[0].name: EDGE_BITS, every[-1].name: EDGE_BITS}
    return {spec.name: bits[spec.name] for spec in every if spec.name in bits}


def skip_splits(structure: UNetStructure) -> dict[str, int]:
    """Shortcut convolutions whose input is a block's state put together with a skip -> channels of the state."""
    splits = {}
    previous = (structure.mid.resnets if structure.mid else structure.down[-1].resnets)[-1][1]
    for block in structure.up:
        for index, (inputs, outputs) in enumerate(block.resnets):
            if inputs != outputs:
                splits[f"{block.name}.resnets.{index}.conv_shortcut"] = previous
            previous = outputs
    return splits


def build_rival(
    job: QuantizationJob, device: torch.device, *, search: str, split_skips: bool, edges: bool, attention: bool
) -> Rival:
    """Both graphs on the device, weights rounded to nearest, activations in float.

    Args:
        search: of the weights' grids, see :func:`weight_grid`.
        split_skips: the halves of shortcut inputs get grids of their own.
        edges: see :func:`rival_bits`.
        attention: the operands of attention are rounded with the activations.
    """
    teacher = float_unet(job.model, job.plan)
    bits = rival_bits(job, teacher, edges)
    modules = dict(teacher.named_modules())
    splits = skip_splits(job.model.structure) if split_skips else {}
    layers = {}
    for spec in layer_specs(job.model.structure):
        if spec.name in bits:
            first = splits.get(spec.name)
            channels = (spec.in_channels,) if first is None else (first, spec.in_channels - first)
            module = modules[spec.name]
            assert isinstance(module, FloatLayer)
            layers[spec.name] = RivalLayer(spec, module, bits[spec.name], search, channels)
    student = StepUNet(job.model.structure, IndexedTables(job_time_path(job).rows), RivalOperators(layers))
    student.load_state_dict(teacher.state_dict(), strict=False)
    student.eval().requires_grad_(False)
    return Rival(teacher.to(device), student.to(device), layers, len(job.plan.calls), job.recipe.activations.bits, attention)
