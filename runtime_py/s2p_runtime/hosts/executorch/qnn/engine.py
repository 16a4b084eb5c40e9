"""Qualcomm's compiler and emulator in a process of their own."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from s2p_runtime.array_process import Array, ArrayProcess
from s2p_runtime.component import TensorSpec
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.executorch.qnn.socs import Soc

TIME_LIMIT = 7200.0
"""Seconds for one answer: the compiler takes many minutes for a U-Net of Stable Diffusion's size, the emulator for one call of it."""
_SUPPORTED = ("Linux", "x86_64")
PACKAGES = ("onnxruntime-qnn", "onnxruntime", "onnx")
INSTALL = "run pip install 's2p-mobile[qnn]'"
_NO_MEMORY = "bad_alloc"
MORE_MEMORY = "close other programs, or use a machine with more memory; more `chunks` take less"
MACHINES = "Qualcomm's compiler and emulator of its NPU exist for Linux on x86_64"


@dataclass(frozen=True)
class Compiled:
    """A compiled graph.

    Attributes:
        graph: its name in the context binary.
        qairt: version of Qualcomm's compiler.
        operators: of the graph that the compiler was given, number by kind.
    """

    graph: str
    qairt: str
    operators: dict[str, int]


def require_engine() -> str:
    """Version of the installed onnxruntime-qnn.

    Raises:
        S2PError: it is not installed, or Qualcomm has none for this machine.
    """
    system, machine = platform.system(), platform.machine()
    if (system, machine) != _SUPPORTED:
        raise S2PError(f"{MACHINES}, not for {system} on {machine}", "use such a machine, or `backend=xnnpack`", "backend")
    for name in PACKAGES:
        try:
            version(name)
        except PackageNotFoundError:
            raise S2PError(f"programs for Snapdragon's NPU need {name}, which is not installed", INSTALL, "backend") from None
    return version(PACKAGES[0])


class QnnEngine(ArrayProcess):
    """The process; see :mod:`s2p_runtime.hosts.executorch.qnn.worker`."""

    module = "s2p_runtime.hosts.executorch.qnn.worker"
    library = "Qualcomm's compiler and emulator"

    def __init__(self, time_limit: float = TIME_LIMIT) -> None:
        # The attributes first: an engine that is refused is closed too.
        super().__init__(time_limit)
        require_engine()

    def refused(self, what: str, reason: str) -> S2PError:
        """See :class:`ArrayProcess`."""
        if _NO_MEMORY in reason:
            return S2PError(f"{self.library} ran out of memory with {what}", MORE_MEMORY)
        return S2PError(f"{self.library} cannot take {what} ({reason})", "report it with the model, or use `backend=xnnpack`")

    def compile(self, what: str, model: Path, context: Path, soc: Soc, inputs: Sequence[TensorSpec]) -> Compiled:
        """Compile an ONNX model for a chip, all of it for its NPU, and write the context binary.

        Raises:
            S2PError: an operator that the NPU does not take (names layer and reason), or the compiler failed or ended.
        """
        names = [port.name for port in inputs]
        request = {"do": "compile", "model": str(model), "context": str(context), "inputs": names, **_chip(soc)}
        answer, _ = self.ask(what, request)
        return Compiled(answer["graph"], answer["qairt"], answer["operators"])

    def load(
        self, what: str, context: Path, graph: str, soc: Soc, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        """Load a context binary under ``what``; ports in the graph's own order."""
        ports = described_ports(inputs, outputs)
        self.ask(what, {"do": "load", "key": what, "context": str(context), "graph": graph, "ports": ports, **_chip(soc)})

    def run(self, what: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Call a loaded graph."""
        return self.call(what, inputs)


def described_ports(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> dict[str, list[list[Any]]]:
    """Ports of a graph as requests and stubs have them: [name, type, shape] of the inputs ``i`` and the outputs ``o``."""
    return {side: [[p.name, p.dtype, list(p.shape)] for p in those] for side, those in (("i", inputs), ("o", outputs))}


def _chip(soc: Soc) -> dict[str, Any]:
    return {"soc": soc.model, "arch": soc.arch}
