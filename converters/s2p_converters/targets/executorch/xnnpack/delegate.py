"""XNNPACK: integer kernels on the processor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from s2p_converters.targets.executorch.partitioned_delegate import PartitionedDelegate
from s2p_converters.targets.protocol import ConvertedUNet, Inspection, LatentShapes
from s2p_runtime.bundle import Bundle

if TYPE_CHECKING:
    from s2p_converters.core.checkpoint import Checkpoint
    from s2p_converters.core.reference import Constants
    from s2p_converters.targets.executorch.options import ExecuTorchOptions

_FLOAT_TOLERANCE = 1e-4
"""Float components against the source's networks: the same arithmetic in another order (measured 3e-7, 4e-6)."""


class Xnnpack(PartitionedDelegate):
    """Takes the U-Net as a subgraph that we write ourselves, with the checkpoint's own integers."""

    name = "xnnpack"
    partitioner = "executorch.backends.xnnpack.partition.xnnpack_partitioner:XnnpackPartitioner"
    sizes = True
    chunks = True
    packs = True

    def constants(self, options: ExecuTorchOptions) -> Constants:
        """See :class:`Delegate`."""
        from s2p_converters.core.reference import CHECKPOINT_CONSTANTS

        return CHECKPOINT_CONSTANTS

    def unet_bytes(self, checkpoint: Checkpoint) -> int:
        """See :class:`Delegate`: linear layers of up to 4 bits are packed in pairs, everything else takes a byte."""
        from s2p_converters.targets.executorch.xnnpack.operators import uses_four_bits

        halves = sum(layer.spec.weights // 2 for layer in checkpoint.layers.values() if uses_four_bits(layer))
        return sum(spec.weights for spec in checkpoint.specs) - halves

    def lower_unet(
        self, checkpoint: Checkpoint, options: ExecuTorchOptions, folder: Path, shapes: LatentShapes
    ) -> ConvertedUNet:
        """See :class:`Delegate`."""
        from s2p_converters.targets.executorch.xnnpack.lowering import convert_unet

        return convert_unet(checkpoint, options, folder, shapes)

    def lower_chunks(self, checkpoint: Checkpoint, options: ExecuTorchOptions, folder: Path) -> ConvertedUNet:
        """See :class:`Delegate`."""
        from s2p_converters.targets.executorch.xnnpack.chunk_programs import convert_chunks

        return convert_chunks(checkpoint, options, folder)

    def self_check_tolerance(self, options: ExecuTorchOptions, component: str) -> float | None:
        """See :class:`Delegate`. The U-Net's layers are checked one by one when it is lowered: end to end roundings flip."""
        return None if component == "unet" else _FLOAT_TOLERANCE

    def inspect(self, bundle: Bundle) -> Inspection:
        """See :class:`Delegate`."""
        from s2p_converters.targets.executorch.xnnpack.unet_facts import inspect_unet

        return inspect_unet(bundle)
