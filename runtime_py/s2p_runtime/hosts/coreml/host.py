"""The host of Core ML bundles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from s2p_runtime.backends import Backend, Compute
from s2p_runtime.bundle import Bundle, BundleManifest
from s2p_runtime.component import Component
from s2p_runtime.hosts.coreml.fingerprint import FINGERPRINT_FILE, check_fingerprint, write_fingerprint
from s2p_runtime.hosts.protocol import Host


class CoreMLHost(Host):
    """Runs .mlpackage components in the MIL reference interpreter."""

    target = "coreml"
    title = "Core ML"
    default_method = "main"
    exact = True

    def open(self, bundle: Bundle, compute: Compute = "declared", release_chunks: bool = False) -> Backend:
        """See :class:`Host`."""
        from s2p_runtime.hosts.coreml.backend import InterpreterBackend

        return InterpreterBackend(bundle, self.default_method, compute, release_chunks)

    def tolerance(self, manifest: BundleManifest, component: str) -> float:
        """See :class:`Host`. In float64 a program agrees with its reference to about 1e-12, so what is left is the rounding of the
        golden tensors to float32 (6e-8), with some room."""
        return 1e-6

    def record_constants(self, folder: Path, components: Mapping[str, Component]) -> None:
        """See :class:`Host`: their :mod:`s2p_runtime.hosts.coreml.fingerprint`."""
        write_fingerprint(folder, {name: component.path for name, component in components.items()})

    def altered_constants(self, bundle: Bundle) -> tuple[str, ...]:
        """See :class:`Host`."""
        return tuple(check_fingerprint(bundle)) if FINGERPRINT_FILE in bundle.manifest.files else ()
