"""Core AI bundles through Apple's own runtime, which runs on Linux too: there on the CPU alone."""

from s2p_runtime.hosts.coreai.engine import require_engine
from s2p_runtime.hosts.coreai.host import CoreAIHost, component_tolerance

HOST = CoreAIHost()

__all__ = ["HOST", "CoreAIHost", "component_tolerance", "require_engine"]
