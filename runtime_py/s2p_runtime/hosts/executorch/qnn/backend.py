"""The components of a bundle for Snapdragon's NPU in Qualcomm's emulator."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

from s2p_runtime.bundle import Bundle
from s2p_runtime.errors import S2PError, S2PWarning
from s2p_runtime.files import inside, sha256_file
from s2p_runtime.hosts.executorch.qnn.engine import QnnEngine
from s2p_runtime.hosts.executorch.qnn.program import compiled_program
from s2p_runtime.hosts.executorch.qnn.socs import soc_named
from s2p_runtime.hosts.programs import Array, ProgramBackend, check_input

SLOW_HERE = "Qualcomm's emulator computes here as the NPU does, thousands of times slower: its speed says nothing about a phone"


class QnnBackend(ProgramBackend):
    """Runs the context binaries inside of a bundle's .pte programs, for the chip of the U-Net's ``path`` unless another is named."""

    def __init__(self, bundle: Bundle, default_method: str, release_chunks: bool = False, chip: str | None = None) -> None:
        """
        Args:
            default_method, release_chunks: see :class:`ProgramBackend`.
            chip: one of those that the bundle is for.

        Raises:
            S2PError: Qualcomm's packages are not installed, or the bundle names no chip.
        """
        super().__init__(bundle, default_method, release_chunks)
        program = bundle.manifest.unet
        own = next((name for name, path in (program.chips or {}).items() if path == program.path), None)
        if own is None:
            raise S2PError(f"{bundle.folder.name} does not say which chips it is for", "convert the checkpoint again")
        self.soc = soc_named(chip or own)
        self._engine = QnnEngine()
        self._scratch = tempfile.TemporaryDirectory(prefix="s2p-qnn-")
        self._loaded: set[str] = set()

    def start(self, threads: int | None = None) -> None:
        """See :class:`s2p_runtime.backends.Backend`. The emulator cannot be told; it is kept to so many cores."""
        self._engine.ask("its start", {"do": "start", "threads": threads})
        warnings.warn(SLOW_HERE, S2PWarning, stacklevel=2)

    @property
    def process_id(self) -> int | None:
        """The process that holds the programs, once it is started: what a measurement of memory looks at."""
        return self._engine.process_id

    def describe(self, component: str) -> str:
        """See :class:`s2p_runtime.backends.Backend`."""
        program = self.bundle.manifest.unet if component == "unet" else self.bundle.component(component)[0]
        return f"Qualcomm's emulator of {self.soc.name}, {program.backend}"

    def _load(self, component: str, method: str) -> None:
        """
        Raises:
            S2PError: the program was altered since the bundle was opened, or holds no context binary.
        """
        if component in self._loaded:
            return
        spec, _ = self.bundle.component(component)
        name = (spec.chips or {}).get(self.soc.name)
        if name is None or name not in self.bundle.manifest.files:
            raise S2PError(f"{component} of {self.bundle.folder.name} is not there for {self.soc.name}", "convert it again")
        path = inside(self.bundle.folder, name)
        if sha256_file(path) != self.bundle.manifest.files[name].sha256:
            raise S2PError(f"{name} in {self.bundle.folder.name} was altered (sha256 differs)", "get the folder again")
        program = compiled_program(path)
        context = Path(self._scratch.name) / f"{component}.qnn"
        context.write_bytes(program.context)
        self._engine.load(component, context, program.graph, self.soc, spec.inputs, spec.outputs)
        context.unlink()
        self._loaded.add(component)

    def _let_go(self, component: str) -> None:
        self._loaded.discard(component)
        self._engine.ask(component, {"do": "drop", "key": component})

    def _call(self, component: str, method: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        spec, _ = self.bundle.component(component)
        feeds = {port.name: inputs[port.name] for port in spec.inputs}
        for port in spec.inputs:
            check_input(feeds[port.name], port, component)
        return self._engine.run(component, feeds)
