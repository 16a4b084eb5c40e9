"""Backends of ExecuTorch that take the U-Net as a float network, through their own partitioners: weights are multiplied out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2p_converters.targets.executorch.partitioned_delegate import PartitionedDelegate
from s2p_converters.targets.protocol import ConvertedUNet, LatentShapes, Notes
from s2p_runtime.bundle import LayerSummary

if TYPE_CHECKING:
    from s2p_converters.core.checkpoint import Checkpoint
    from s2p_converters.core.reference import Constants
    from s2p_converters.targets.executorch.options import ExecuTorchOptions

_FLOAT32 = 4
_EXPERIMENTAL = (
    "ExecuTorch's Core AI delegate is experimental: an app needs the ExecuTorch that wrote the programs, and they do not run here",
    "weights are multiplied out and in float; the target coreai keeps the checkpoint's integers",
)


class StockDelegate(PartitionedDelegate):
    """A backend without kernels for the checkpoint's integers. Activations stay in float."""

    def constants(self, options: ExecuTorchOptions) -> Constants:
        """See :class:`Delegate`."""
        from s2p_converters.core.reference import CHECKPOINT_CONSTANTS

        return replace(CHECKPOINT_CONSTANTS, activations=False)

    def unet_bytes(self, checkpoint: Checkpoint) -> int:
        """See :class:`Delegate`."""
        return _FLOAT32 * sum(spec.weights for spec in checkpoint.specs)

    def lower_unet(
        self, checkpoint: Checkpoint, options: ExecuTorchOptions, folder: Path, shapes: LatentShapes
    ) -> ConvertedUNet:
        """See :class:`Delegate`; ``shapes`` holds but one."""
        from s2p_converters.core.reference import reference_unet
        from s2p_converters.targets.executorch.partitioned import lower_methods
        from s2p_converters.targets.executorch.programs import write_program
        from s2p_converters.targets.interface import unet_inputs, unet_output
        from s2p_converters.targets.ports import example

        ((method, latents),) = shapes.items()
        inputs, output = unet_inputs(checkpoint, "int64", latents), unet_output(checkpoint, latents)
        unet = reference_unet(checkpoint, self.constants(options)).float()
        data = lower_methods(unet, {method: tuple(map(example, inputs))}, self)
        component = write_program(folder / "unet.pte", data, self.name, inputs, (output,))
        return ConvertedUNet({"unet": component}, _float_layers(checkpoint))


class StockCoreML(StockDelegate):
    """Apple's Core ML inside of ExecuTorch."""

    name = "coreml"
    partitioner = "executorch.backends.apple.coreml.partition:CoreMLPartitioner"


class StockCoreAI(StockDelegate):
    """Apple's Core AI inside of ExecuTorch, from 1.5.1 on. Experimental there: its formats may change between versions.
    Needs coreai-torch."""

    name = "coreai"
    partitioner = "executorch.backends.apple.coreai:CoreAIPartitioner"

    def notes(self, checkpoint: Checkpoint, options: ExecuTorchOptions) -> Notes:
        """See :class:`Delegate`."""
        return Notes(after=_EXPERIMENTAL)

    def lowering(self) -> dict[str, Any]:
        """See :class:`PartitionedDelegate`."""
        from coreai.authoring import AIProgram
        from executorch.backends.apple.coreai import get_default_compile_config, get_default_passes

        # ExecuTorch 1.5.1 was written for a coreai-core before 1.0.0b3, which gave the method another name.
        if not hasattr(AIProgram, "get_graph"):
            AIProgram.get_graph = AIProgram._get_graph
        return {"transform_passes": get_default_passes(), "compile_config": get_default_compile_config()}


class StockVulkan(StockDelegate):
    """GPUs through Vulkan."""

    name = "vulkan"
    partitioner = "executorch.backends.vulkan.partitioner.vulkan_partitioner:VulkanPartitioner"


def _float_layers(checkpoint: Checkpoint) -> tuple[LayerSummary, ...]:
    return tuple(
        LayerSummary(
            name=spec.name, kind=spec.kind, weight_bits=32, activation_bits=None, scheme="float32",
            weights=spec.weights, bytes=_FLOAT32 * spec.weights,
        )
        for spec in checkpoint.specs
    )  # fmt: skip
