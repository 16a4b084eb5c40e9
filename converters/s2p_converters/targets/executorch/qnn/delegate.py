"""Snapdragon's NPU: context binaries of Qualcomm's own compiler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from s2p_converters.targets.executorch.protocol import Delegate
from s2p_converters.targets.protocol import ConvertedUNet, Inspection, LatentShapes, Notes
from s2p_runtime.bundle import Bundle
from s2p_runtime.component import Component

if TYPE_CHECKING:
    from s2p_converters.core.checkpoint import Checkpoint
    from s2p_converters.core.reference import Constants
    from s2p_converters.targets.executorch.options import ExecuTorchOptions
    from s2p_converters.targets.float_components import FloatComponent


class Qnn(Delegate):
    """Takes the U-Net as an ONNX graph that we write ourselves, with the checkpoint's own integers between 16-bit grids."""

    name = "qnn"
    chunks = True

    def check(self, checkpoint: Checkpoint, options: ExecuTorchOptions) -> None:
        """See :class:`Delegate`."""
        from s2p_converters.targets.executorch.qnn.checks import check_conversion

        check_conversion(checkpoint, options)

    def notes(self, checkpoint: Checkpoint, options: ExecuTorchOptions) -> Notes:
        """See :class:`Delegate`."""
        from s2p_runtime.hosts.executorch.qnn.backend import SLOW_HERE

        return Notes(after=(SLOW_HERE,))

    def constants(self, options: ExecuTorchOptions) -> Constants:
        """See :class:`Delegate`. Weights are the integers times their scale; activations are rounded to the checkpoint's own grids
        where the program does so, else to grids that are finer than what the program's tolerance allows."""
        from dataclasses import replace

        from s2p_converters.core.reference import CHECKPOINT_CONSTANTS

        return replace(CHECKPOINT_CONSTANTS, activations=options.activations == "uint8")

    def unet_bytes(self, checkpoint: Checkpoint) -> int:
        """See :class:`Delegate`: 4 or 8 bits a weight, 16 of layers that are not quantized."""
        from s2p_converters.targets.executorch.qnn.unet import stored_weights

        weights = stored_weights(checkpoint)
        return sum(weights[spec.name].stored_bytes if spec.name in weights else 2 * spec.weights for spec in checkpoint.specs)

    def lower(self, options: ExecuTorchOptions, folder: Path, methods: Mapping[str, FloatComponent]) -> Component:
        """See :class:`Delegate`."""
        from s2p_converters.targets.executorch.qnn.lowering import lower_float

        (component,) = methods.values()
        return lower_float(options, folder, component)

    def lower_unet(
        self, checkpoint: Checkpoint, options: ExecuTorchOptions, folder: Path, shapes: LatentShapes
    ) -> ConvertedUNet:
        """See :class:`Delegate`."""
        from s2p_converters.targets.executorch.qnn.lowering import lower_unet

        return lower_unet(checkpoint, options, folder)

    def lower_chunks(self, checkpoint: Checkpoint, options: ExecuTorchOptions, folder: Path) -> ConvertedUNet:
        """See :class:`Delegate`."""
        from s2p_converters.targets.executorch.qnn.lowering import lower_unet

        return lower_unet(checkpoint, options, folder)

    def runs_here(self, checkpoint: Checkpoint, component: str) -> bool:
        """See :class:`Delegate`: a U-Net of Stable Diffusion's size takes the emulator many minutes a call."""
        from s2p_converters.targets.executorch.qnn.checks import is_large

        return not is_large(checkpoint, component)

    def self_check_tolerance(self, options: ExecuTorchOptions, component: str) -> float | None:
        """See :class:`Delegate`."""
        from s2p_runtime.hosts.executorch.delegates import RUNNABLE

        return RUNNABLE[self.name].tolerance(component, rounds_to_8_bits=options.activations == "uint8")

    def inspect(self, bundle: Bundle) -> Inspection:
        """See :class:`Delegate`: chips, and bytes of each one's context binaries."""
        from s2p_runtime.hosts.executorch.qnn.program import compiled_program

        sizes: dict[str, dict[str, int]] = {}
        for name, component in bundle.manifest.components.items():
            for chip, path in (component.chips or {}).items():
                sizes.setdefault(chip, {})[name] = len(compiled_program(bundle.path(path)).context)
        facts = {
            f"context binaries for {chip}": ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in parts.items())
            for chip, parts in sizes.items()
        }
        return Inspection(facts, {"contexts": sizes})
