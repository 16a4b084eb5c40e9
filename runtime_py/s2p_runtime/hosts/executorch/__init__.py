"""ExecuTorch bundles through ExecuTorch's own Python runtime."""

from s2p_runtime.hosts.executorch.host import ExecuTorchHost

HOST = ExecuTorchHost()

__all__ = ["HOST", "ExecuTorchHost"]
