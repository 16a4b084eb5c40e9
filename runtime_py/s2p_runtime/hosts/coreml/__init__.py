"""Core ML bundles through a reference interpreter for ML Programs: Core ML itself runs on Apple's systems only."""

from s2p_runtime.hosts.coreml.host import CoreMLHost

HOST = CoreMLHost()

__all__ = ["HOST", "CoreMLHost"]
