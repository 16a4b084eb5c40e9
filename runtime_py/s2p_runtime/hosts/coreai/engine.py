"""Apple's runtime in a process of its own: it may end that process without a word, or never answer, and the command says so."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from s2p_runtime.array_process import Array as Array
from s2p_runtime.array_process import ArrayProcess
from s2p_runtime.errors import S2PError

TIME_LIMIT = 1800.0
"""Seconds for one answer. A call of a U-Net of Stable Diffusion's size takes a minute or two on one core."""
_SUPPORTED = (("Linux", "x86_64"), ("Darwin", "arm64"))


def require_engine() -> str:
    """Version of the installed coreai-core.

    Raises:
        S2PError: it is not installed, or Apple has none for this machine.
    """
    try:
        return version("coreai-core")
    except PackageNotFoundError:
        system, machine = platform.system(), platform.machine()
        if (system, machine) not in _SUPPORTED:
            raise S2PError(
                f"Apple's Core AI packages do not exist for {system} on {machine}",
                "use Linux on x86_64, or a Mac with Apple's chip",
            ) from None
        raise S2PError("this needs coreai-core, which is not installed", "run pip install 's2p-mobile[coreai]'") from None


class Engine(ArrayProcess):
    """The process; see :mod:`s2p_runtime.hosts.coreai.worker`."""

    module = "s2p_runtime.hosts.coreai.worker"
    library = "Apple's runtime"

    def __init__(self, time_limit: float = TIME_LIMIT) -> None:
        # The attributes first: an engine that is refused is closed too.
        super().__init__(time_limit)
        require_engine()

    def load(self, what: str, path: Path, function: str, wide: bool = False) -> None:
        """Compile a program and load one of its functions under ``what``; ``wide``: see :mod:`s2p_runtime.hosts.coreai.widening`."""
        self.ask(what, {"do": "load", "key": what, "path": str(path), "function": function, "wide": wide})

    def run(self, what: str, function: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Call a loaded function."""
        return self.call(what, inputs, function=function)
