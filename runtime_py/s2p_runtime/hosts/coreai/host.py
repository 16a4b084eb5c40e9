"""The host of Core AI bundles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from s2p_runtime.backends import Backend, Compute
from s2p_runtime.bundle import Bundle, BundleManifest
from s2p_runtime.component import Component
from s2p_runtime.hosts.protocol import Host

_TOLERANCES = {
    "float32": {"unet": 5e-2, "": 1e-4},
    "float16": {"unet": 1e-1, "": 2e-2},
}
"""Largest relative error at equal inputs. Float components in float32 differ by the order of sums (3e-6 measured), in float16 by the
weights' rounding of 2^-11 each, which a dozen layers amplify. In the U-Net a difference in the last place flips some roundings of
activations and moves the output by whole grid steps: torch in float32 is up to 3.9e-2 away from torch in float64 over the calls of
the demo model's golden run. In float16 more of them flip."""


def component_tolerance(precision: str, component: str) -> float:
    """Largest relative error of a component that computes in ``float16`` or ``float32``."""
    known = _TOLERANCES[precision]
    return known.get(component, known[""])


class CoreAIHost(Host):
    """Runs .aimodel components in Apple's runtime, in a process of its own."""

    target = "coreai"
    title = "Core AI"
    default_method = "main"

    def open(self, bundle: Bundle, compute: Compute = "declared", release_chunks: bool = False) -> Backend:
        """See :class:`Host`.

        Raises:
            S2PError: Apple's packages are not installed.
        """
        from s2p_runtime.hosts.coreai.backend import CoreAIBackend

        return CoreAIBackend(bundle, self.default_method, release_chunks)

    def tolerance(self, manifest: BundleManifest, component: str) -> float:
        """See :class:`Host`."""
        program = manifest.unet if component == "unet" else manifest.components[component]
        return component_tolerance(program.precision, component)

    def record_constants(self, folder: Path, components: Mapping[str, Component]) -> None:
        """See :class:`Host`: their :mod:`s2p_runtime.hosts.coreai.digests`."""
        from s2p_runtime.hosts.coreai.digests import write_digests

        write_digests(folder, components)

    def altered_constants(self, bundle: Bundle) -> tuple[str, ...]:
        """See :class:`Host`."""
        from s2p_runtime.hosts.coreai.digests import changed_constants

        return changed_constants(bundle)
