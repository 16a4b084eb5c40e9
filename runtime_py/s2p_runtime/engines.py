"""Which backend runs a bundle here."""

from __future__ import annotations

from s2p_runtime.backends import Backend, Compute
from s2p_runtime.bundle import Bundle
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts import host_of


def open_backend(bundle: Bundle, compute: Compute = "declared", release_chunks: bool = False) -> Backend:
    """The backend of the host of a bundle's target.

    Args:
        compute: ``float64`` for an exact evaluation where the host has one; others always compute as the programs do.
        release_chunks: where the U-Net is several programs, load each for every call and let go of it: slower, and of the U-Net
            no more than the largest program is in memory.

    Raises:
        S2PError: a target or engine that this machine does not have, or nothing to release.
    """
    if release_chunks and not bundle.manifest.chunks:
        raise S2PError(
            f"the U-Net of {bundle.folder.name} is one program",
            "leave `release_chunks` out, or convert with `chunks`",
            "release_chunks",
        )
    return host_of(bundle).open(bundle, compute, release_chunks)
