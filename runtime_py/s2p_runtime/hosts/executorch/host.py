"""The host of ExecuTorch bundles."""

from __future__ import annotations

from importlib import import_module

from s2p_runtime.backends import Backend, Compute
from s2p_runtime.bundle import Bundle, BundleManifest
from s2p_runtime.hosts.executorch.delegates import delegate_of
from s2p_runtime.hosts.protocol import Host

_ENGINES = {
    "xnnpack": "s2p_runtime.hosts.executorch.backend:ExecuTorchBackend",
    "qnn": "s2p_runtime.hosts.executorch.qnn.backend:QnnBackend",
}
"""Delegate to ``module:class`` of what runs its programs here."""


class ExecuTorchHost(Host):
    """Runs .pte components as they are, in the delegates that compute on this machine."""

    target = "executorch"
    title = "ExecuTorch"
    default_method = "forward"

    def open(self, bundle: Bundle, compute: Compute = "declared", release_chunks: bool = False) -> Backend:
        """See :class:`Host`.

        Raises:
            S2PError: made by another executorch, for a delegate that does not run here, or its engine is missing.
        """
        delegate = delegate_of(bundle.manifest.unet.backend, bundle.folder.name)
        module, _, name = _ENGINES[delegate.name].partition(":")
        opened: Backend = getattr(import_module(module), name)(bundle, self.default_method, release_chunks)
        return opened

    def tolerance(self, manifest: BundleManifest, component: str) -> float:
        """See :class:`Host`."""
        narrow = any(layer.activation_bits == 8 for layer in manifest.quantization.layers)
        return delegate_of(manifest.unet.backend, manifest.name).tolerance(component, narrow)
