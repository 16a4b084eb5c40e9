"""What the ExecuTorch target can be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from s2p_converters.targets.executorch.xnnpack.operators import Scheme
from s2p_runtime.errors import S2PError

BACKENDS = ("xnnpack", "coreml", "vulkan")
SCHEMES = ("pinned", "static", "dynamic")


@dataclass(frozen=True)
class ExecuTorchOptions:
    """Options of the ExecuTorch target.

    Attributes:
        backend: what runs the programs. Only ``xnnpack`` computes with integers; the others get the weights multiplied out.
        scheme: how activations become int8, see :data:`s2p_converters.targets.executorch.xnnpack.operators.Scheme`.
        self_check: run every integer layer alone against plain arithmetic.
        chunks: into how many programs the U-Net is split, for devices that cannot hold the whole.
        sizes: (width, height) in pixels of pictures beside the checkpoint's own; the programs get a method for each.
    """

    backend: str = "xnnpack"
    scheme: Scheme = "pinned"
    self_check: bool = True
    chunks: int = 1
    sizes: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise S2PError(f"unknown backend {self.backend!r}", f"choose from {', '.join(BACKENDS)}")
        if self.scheme not in SCHEMES:
            raise S2PError(f"unknown activation scheme {self.scheme!r}", f"choose from {', '.join(SCHEMES)}")
        if self.sizes and self.backend != "xnnpack":
            raise S2PError("`size` needs `backend=xnnpack`", f"{self.backend} keeps the weights of every size apart", "size")
        if self.chunks != 1 and self.sizes:
            raise S2PError("`chunks` splits the U-Net for one size", "leave `size` or `chunks` out", "chunks")
        if self.chunks != 1 and self.backend != "xnnpack":
            raise S2PError("`chunks` needs `backend=xnnpack`", f"{self.backend} takes the U-Net whole", "chunks")
