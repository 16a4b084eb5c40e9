"""The host of ExecuTorch bundles."""

from __future__ import annotations

from s2p_runtime.backends import Backend, Compute
from s2p_runtime.bundle import Bundle, BundleManifest
from s2p_runtime.hosts.executorch.delegates import delegate_of
from s2p_runtime.hosts.protocol import Host


class ExecuTorchHost(Host):
    """Runs .pte components as they are, in float32 and with the integer kernels of the delegates that this package holds."""

    target = "executorch"
    title = "ExecuTorch"
    default_method = "forward"

    def open(self, bundle: Bundle, compute: Compute = "declared", release_chunks: bool = False) -> Backend:
        """See :class:`Host`.

        Raises:
            S2PError: made by another executorch, or for a delegate that does not run here.
        """
        from s2p_runtime.hosts.executorch.backend import ExecuTorchBackend

        return ExecuTorchBackend(bundle, self.default_method, release_chunks)

    def tolerance(self, manifest: BundleManifest, component: str) -> float:
        """See :class:`Host`."""
        return delegate_of(manifest.unet.backend, manifest.name).tolerance(component)
