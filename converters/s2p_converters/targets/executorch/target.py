"""The target ExecuTorch: Android, and whatever else it runs on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from s2p_converters.targets.executorch.delegates import DELEGATES
from s2p_converters.targets.executorch.options import ExecuTorchOptions
from s2p_converters.targets.protocol import Archive, ConvertedUNet, Inspection, LatentShapes, Notes, Target
from s2p_runtime.bundle import Bundle
from s2p_runtime.component import Component

if TYPE_CHECKING:
    from s2p_converters.core.checkpoint import Checkpoint
    from s2p_converters.core.reference import Constants
    from s2p_converters.targets.float_components import FloatComponent

_COPIES = 6
"""Copies of the U-Net's program in memory: its weights packed for XNNPACK, the lowered graph and the serializer's buffers. Measured
with benchmarks/full_size.py, networks of 138M to 2.57B parameters: peaks lie 0 to 25% below what this gives."""


class PackedArchive(Archive):
    """See :mod:`s2p_converters.targets.executorch.archive`."""

    def unet_bytes(self, folder: Path, unet: ConvertedUNet) -> int:
        """See :class:`Archive`."""
        from s2p_converters.targets.executorch.archive import packed_bytes

        return sum(packed_bytes((folder / part.path).read_bytes(), unet.layers) for part in unet.components.values())

    def write(self, bundle: Bundle, path: Path, *, force: bool = False) -> None:
        """See :class:`Archive`."""
        from s2p_converters.targets.executorch.archive import write_archive

        write_archive(bundle, path, force=force)


class ExecuTorchTarget(Target[ExecuTorchOptions]):
    """Programs in .pte files. What differs between backends stands in :mod:`s2p_converters.targets.executorch.delegates`."""

    name = "executorch"
    title = "ExecuTorch"
    options = ExecuTorchOptions
    keeps_programs = True
    step = "int64"
    archive = PackedArchive()

    def describe(self, options: ExecuTorchOptions) -> str:
        """See :class:`Target`."""
        return f"ExecuTorch, {options.backend}{' for ' if options.socs else ''}{' and '.join(options.socs)}"

    def check(self, checkpoint: Checkpoint, options: ExecuTorchOptions) -> None:
        """See :class:`Target`."""
        DELEGATES[options.backend].check(checkpoint, options)

    def notes(self, checkpoint: Checkpoint, options: ExecuTorchOptions) -> Notes:
        """See :class:`Target`."""
        return DELEGATES[options.backend].notes(checkpoint, options)

    def memory(self, checkpoint: Checkpoint, options: ExecuTorchOptions) -> int:
        """See :class:`Target`."""
        from s2p_converters.targets.needs import LIBRARIES

        return LIBRARIES + _COPIES * DELEGATES[options.backend].unet_bytes(checkpoint)

    def disk(self, checkpoint: Checkpoint, options: ExecuTorchOptions) -> int:
        """See :class:`Target`."""
        from s2p_converters.targets.needs import float_bytes

        return DELEGATES[options.backend].unet_bytes(checkpoint) + float_bytes(checkpoint)

    def lower(
        self, checkpoint: Checkpoint, options: ExecuTorchOptions, folder: Path, methods: Mapping[str, FloatComponent]
    ) -> Component:
        """See :class:`Target`."""
        return DELEGATES[options.backend].lower(options, folder, methods)

    def lower_unet(
        self, checkpoint: Checkpoint, options: ExecuTorchOptions, folder: Path, shapes: LatentShapes
    ) -> ConvertedUNet:
        """See :class:`Target`."""
        return DELEGATES[options.backend].lower_unet(checkpoint, options, folder, shapes)

    def lower_chunks(self, checkpoint: Checkpoint, options: ExecuTorchOptions, folder: Path) -> ConvertedUNet:
        """See :class:`Target`."""
        return DELEGATES[options.backend].lower_chunks(checkpoint, options, folder)

    def constants(self, options: ExecuTorchOptions) -> Constants:
        """See :class:`Target`."""
        return DELEGATES[options.backend].constants(options)

    def self_check_tolerance(self, options: ExecuTorchOptions, component: str) -> float | None:
        """See :class:`Target`."""
        return DELEGATES[options.backend].self_check_tolerance(options, component)

    def runs_here(self, checkpoint: Checkpoint, options: ExecuTorchOptions, component: str) -> bool:
        """See :class:`Target`."""
        return DELEGATES[options.backend].runs_here(checkpoint, component)

    def inspect(self, bundle: Bundle) -> Inspection:
        """See :class:`Target`."""
        delegate = DELEGATES.get(bundle.manifest.unet.backend.split(" ")[0])
        return Inspection() if delegate is None else delegate.inspect(bundle)


TARGET = ExecuTorchTarget()
