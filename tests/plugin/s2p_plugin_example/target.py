"""A target: every component as a program of ``torch.export``, for machines that have PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from s2p_converters.targets.options import TargetOptions
from s2p_converters.targets.protocol import ConvertedUNet, Inspection, LatentShapes, Target
from s2p_runtime.bundle import Bundle, LayerSummary
from s2p_runtime.component import Component, TensorSpec

if TYPE_CHECKING:
    from torch import nn

    from s2p_converters.core.checkpoint import Checkpoint
    from s2p_converters.core.reference import Constants
    from s2p_converters.targets.float_components import FloatComponent

SUFFIX = "pt2"


class ToyOptions(TargetOptions):
    """Options of the target."""

    greeting: Literal["none", "hello"] = Field("none", title="greeting", description="a word that the bundle remembers")


class ToyTarget(Target[ToyOptions]):
    """The reference function of a checkpoint in float32: integers times scales, activations rounded at every call."""

    name = "toy"
    title = "programs of torch.export"
    options = ToyOptions
    step = "int64"

    def memory(self, checkpoint: Checkpoint, options: ToyOptions) -> int:
        """See :class:`Target`: weights in float64 for the reference, in float32 for the program, and torch."""
        return (1 << 30) + 12 * sum(spec.weights for spec in checkpoint.specs)

    def disk(self, checkpoint: Checkpoint, options: ToyOptions) -> int:
        """See :class:`Target`: four bytes a weight."""
        from s2p_converters.targets.needs import float_bytes

        return float_bytes(checkpoint) + 4 * sum(spec.weights for spec in checkpoint.specs)

    def lower(
        self, checkpoint: Checkpoint, options: ToyOptions, folder: Path, methods: Mapping[str, FloatComponent]
    ) -> Component:
        """See :class:`Target`."""
        first = next(iter(methods.values()))
        module = first.load().float()
        for method, part in methods.items():
            write_program(folder / first.name / f"{method}.{SUFFIX}", module, part.inputs)
        return component(first.name, first.inputs, first.outputs, options)

    def lower_unet(self, checkpoint: Checkpoint, options: ToyOptions, folder: Path, shapes: LatentShapes) -> ConvertedUNet:
        """See :class:`Target`."""
        from s2p_converters.core.reference import reference_unet
        from s2p_converters.targets.interface import unet_inputs, unet_output

        unet = reference_unet(checkpoint, self.constants(options)).float()
        for method, latents in shapes.items():
            write_program(folder / "unet" / f"{method}.{SUFFIX}", unet, unet_inputs(checkpoint, self.step, latents))
        own = component("unet", unet_inputs(checkpoint, self.step), (unet_output(checkpoint),), options)
        return ConvertedUNet({"unet": own}, layer_summaries(checkpoint))

    def constants(self, options: ToyOptions) -> Constants:
        """See :class:`Target`."""
        from s2p_converters.core.reference import CHECKPOINT_CONSTANTS

        return CHECKPOINT_CONSTANTS

    def self_check_tolerance(self, options: ToyOptions, component: str) -> float | None:
        """See :class:`Target`; the host says how they come about."""
        return 5e-2 if component == "unet" else 1e-4

    def inspect(self, bundle: Bundle) -> Inspection:
        """See :class:`Target`."""
        import torch

        program = torch.export.load(bundle.component("unet")[1] / f"{self.host.default_method}.{SUFFIX}")
        nodes = len(program.graph.nodes)
        return Inspection({"operations": f"{nodes} nodes in the U-Net's graph"}, {"nodes": nodes})


def component(name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], options: ToyOptions) -> Component:
    """A manifest's entry."""
    return Component(
        path=name, precision="float32", inputs=tuple(inputs), outputs=tuple(outputs), backend=f"toy {options.greeting}"
    )


def layer_summaries(checkpoint: Checkpoint) -> tuple[LayerSummary, ...]:
    """How the layers are stored: dequantized."""
    summaries = []
    for spec in checkpoint.specs:
        layer = checkpoint.layers.get(spec.name)
        summaries.append(
            LayerSummary(
                name=spec.name,
                kind=spec.kind,
                weight_bits=32 if layer is None else layer.weight_bits,
                activation_bits=None if layer is None else layer.activation_bits,
                scheme="float32",
                weights=spec.weights,
                bytes=4 * spec.weights,
            )
        )
    return tuple(summaries)


def write_program(path: Path, module: nn.Module, inputs: Sequence[TensorSpec]) -> None:
    """Export a module for inputs of these shapes."""
    import torch

    from s2p_converters.targets.ports import example

    path.parent.mkdir(exist_ok=True)
    program = torch.export.export(module.eval(), tuple(example(port) for port in inputs), strict=False)
    torch.export.save(program, path)


TARGET = ToyTarget()
