"""A graph whose weights are rounded up or down and whose activations lie on affine grids: built from a job, and written out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from s2p_converters.core.graph import LayerSpec, StepUNet, layer_specs, split_shortcuts
from s2p_converters.core.graph.structure import UNetStructure, shortcut_specs
from s2p_mobile.quantize.compute import autocast
from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.rounding.layers import IndexedTables, RoundedLayer, RoundedOperators, rounded_layer
from s2p_mobile.quantize.time_path import job_time_path
from s2p_mobile.sources.trajectory import float_unet

EDGE_BITS = 8
"""Width of conv_in and conv_out where a method quantizes them."""


@dataclass(frozen=True)
class RoundedNetwork:
    """
    Attributes:
        teacher: the FP graph.
        student: the same with rounded layers.
        layers: the rounded layers by name, in the order in which they run.
        calls: T.
        activation_bits: of the recipe; None: float.
        attention: whether the operands of attention are rounded too.
        precision: entered when the student runs.
    """

    teacher: StepUNet
    student: StepUNet
    layers: dict[str, RoundedLayer]
    calls: int
    activation_bits: int | None
    attention: bool
    precision: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext

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
        assert isinstance(self.student.ops, RoundedOperators)
        self.student.ops.softmax_bits = 16 if self.attention else None

    def export(self) -> QuantizedUNet:
        """As the checkpoint holds it."""
        assert isinstance(self.student.ops, RoundedOperators)
        general = {name: layer.export() for name, layer in self.layers.items()}
        return QuantizedUNet({}, general=general, softmax_bits=self.student.ops.softmax_bits)


def skip_splits(structure: UNetStructure) -> dict[str, int]:
    """Shortcut convolutions whose input is a block's state put together with a skip -> channels of the state."""
    if structure.split_shortcuts:
        return {}
    return {
        spec.name: block.input_parts(resnet)[0]
        for block in structure.up
        for resnet in range(len(block.resnets))
        for spec in shortcut_specs(block, resnet, structure)
    }


def build_rounded(
    job: QuantizationJob, bits: Mapping[str, int], device: torch.device, *, search: str, split_skips: bool, attention: bool
) -> RoundedNetwork:
    """Both graphs on the device, weights rounded to nearest, activations in float.

    Args:
        bits: width of every rounded layer.
        search: of the weights' grids, see :func:`weight_grid`.
        split_skips: the halves of shortcut inputs get grids of their own.
        attention: the operands of attention are rounded with the activations.
    """
    structure, compute = job.structure, job.compute
    teacher = compute.place(float_unet(job.model, job.plan, structure), device)
    source = split_shortcuts(job.model.unet.state_dict(), structure)
    splits = skip_splits(structure) if split_skips else {}
    layers = {}
    for spec in layer_specs(structure):
        if spec.name in bits:
            first = splits.get(spec.name)
            channels = (spec.in_channels,) if first is None else (first, spec.in_channels - first)
            weight, bias = source.pop(f"{spec.name}.weight"), source.pop(f"{spec.name}.bias", None)
            layers[spec.name] = rounded_layer(spec, weight, bias, bits[spec.name], search, channels, device)
    student = job.model.denoiser.graph(structure, IndexedTables(job_time_path(job)), RoundedOperators(layers))
    student.load_state_dict(source, strict=False)
    student.eval().requires_grad_(False)
    return RoundedNetwork(
        teacher,
        student.to(device),
        layers,
        len(job.plan.calls),
        job.recipe.activations.bits,
        attention,
        lambda: autocast(device, compute.training),
    )
