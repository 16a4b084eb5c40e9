"""Which backend runs a bundle here."""

from __future__ import annotations

from s2p_runtime.backends import Backend, Compute
from s2p_runtime.bundle import Bundle
from s2p_runtime.errors import S2PError
from s2p_runtime.executorch import ExecuTorchBackend
from s2p_runtime.mil_backend import InterpreterBackend


def open_backend(bundle: Bundle, compute: Compute = "declared", release_chunks: bool = False) -> Backend:
    """The backend for a bundle's target.

    Args:
        release_chunks: where the U-Net is several programs, load each for every call and let go of it: slower, and of the U-Net
            no more than the largest program is in memory.
        compute: for Core ML bundles, how the reference interpreter computes; ExecuTorch programs always run as they are.

    Raises:
        S2PError: another target or engine than this machine has, or nothing to release.
    """
    if release_chunks and not bundle.manifest.chunks:
        raise S2PError(
            f"the U-Net of {bundle.folder.name} is one program",
            "leave `release_chunks` out, or convert with `chunks`",
            "release_chunks",
        )
    if bundle.manifest.target == "coreml":
        return InterpreterBackend(bundle, compute, release_chunks)
    if bundle.manifest.target == "executorch":
        return ExecuTorchBackend(bundle, release_chunks)
    raise S2PError(
        f"{bundle.folder.name} is a bundle for {bundle.manifest.target}; this s2p-mobile runs coreml and executorch",
        "install what runs it, or convert the checkpoint for one of these",
    )
