"""What a backend of ExecuTorch, called delegate here, has to offer to the target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from s2p_converters.targets.protocol import ConvertedUNet, Inspection, LatentShapes, Notes
from s2p_runtime.bundle import Bundle
from s2p_runtime.component import Component
from s2p_runtime.errors import S2PError

if TYPE_CHECKING:
    from s2p_converters.core.checkpoint import Checkpoint
    from s2p_converters.core.reference import Constants
    from s2p_converters.targets.executorch.options import ExecuTorchOptions
    from s2p_converters.targets.float_components import FloatComponent


class Delegate(ABC):
    """One of ExecuTorch's backends. Its module is imported to know the options: it imports executorch inside of methods.

    Attributes:
        name: as users call it, and the first word of a component's ``backend``.
        sizes: whether methods of a program share their weights, so that a bundle may have several picture sizes.
        chunks: whether the U-Net may be several programs.
        packs: whether its U-Net programs shrink in the download form.
    """

    name: ClassVar[str]
    sizes: ClassVar[bool] = False
    chunks: ClassVar[bool] = False
    packs: ClassVar[bool] = False

    def check(self, checkpoint: Checkpoint, options: ExecuTorchOptions) -> None:  # noqa: B027  (there may be nothing to refuse)
        """See :meth:`s2p_converters.targets.protocol.Target.check`."""

    def notes(self, checkpoint: Checkpoint, options: ExecuTorchOptions) -> Notes:
        """See :meth:`s2p_converters.targets.protocol.Target.notes`."""
        return Notes()

    @abstractmethod
    def constants(self, options: ExecuTorchOptions) -> Constants:
        """How the U-Net's program stores real numbers."""

    @abstractmethod
    def unet_bytes(self, checkpoint: Checkpoint) -> int:
        """Bytes of the U-Net's program, norms and biases aside."""

    @abstractmethod
    def lower(self, options: ExecuTorchOptions, folder: Path, methods: Mapping[str, FloatComponent]) -> Component:
        """See :meth:`s2p_converters.targets.protocol.Target.lower`."""

    @abstractmethod
    def lower_unet(
        self, checkpoint: Checkpoint, options: ExecuTorchOptions, folder: Path, shapes: LatentShapes
    ) -> ConvertedUNet:
        """See :meth:`s2p_converters.targets.protocol.Target.lower_unet`."""

    def lower_chunks(self, checkpoint: Checkpoint, options: ExecuTorchOptions, folder: Path) -> ConvertedUNet:
        """See :meth:`s2p_converters.targets.protocol.Target.lower_chunks`."""
        raise S2PError(f"`chunks`: {self.name} takes the U-Net whole", "leave it out", "chunks")

    def runs_here(self, checkpoint: Checkpoint, component: str) -> bool:
        """See :meth:`s2p_converters.targets.protocol.Target.runs_here`."""
        return True

    def self_check_tolerance(self, options: ExecuTorchOptions, component: str) -> float | None:
        """See :meth:`s2p_converters.targets.protocol.Target.self_check_tolerance`; by default it does not run on this machine."""
        return None

    def inspect(self, bundle: Bundle) -> Inspection:
        """See :meth:`s2p_converters.targets.protocol.Target.inspect`."""
        return Inspection()


class Partitioned(Delegate):
    """A backend whose float components ExecuTorch's own partitioner takes.

    Attributes:
        partitioner: ``module:class`` of it.
    """

    partitioner: ClassVar[str]

    def lowering(self) -> dict[str, Any]:
        """What ``to_edge_transform_and_lower`` takes besides the partitioner."""
        return {}
