"""The components of a Core AI bundle in Apple's runtime."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Mapping

import numpy as np

from s2p_runtime.backends import Array32
from s2p_runtime.bundle import Bundle
from s2p_runtime.component import TensorSpec
from s2p_runtime.errors import S2PError, S2PWarning
from s2p_runtime.hosts.coreai.engine import Array, Engine
from s2p_runtime.hosts.programs import ProgramBackend, check_input, port_at_size
from s2p_runtime.hosts.timesteps import told_timestep

SLOW_HERE = "Apple's runtime computes here on the CPU alone: its speed says nothing about a phone"


class CoreAIBackend(ProgramBackend):
    """Runs the .aimodel components of a bundle. Programs are compiled at first use."""

    def __init__(self, bundle: Bundle, default_method: str, release_chunks: bool = False) -> None:
        """
        Args:
            default_method, release_chunks: see :class:`ProgramBackend`.

        Raises:
            S2PError: Apple's packages are not installed.
        """
        super().__init__(bundle, default_method, release_chunks)
        self._engine = Engine()
        # Only Apple's own processors have float16; see the module on widening.
        self._wide = sys.platform != "darwin"
        self._loaded: set[tuple[str, str]] = set()

    def start(self, threads: int | None = None) -> None:
        """See :class:`s2p_runtime.backends.Backend`. The runtime cannot be told; on Linux it is kept to so many cores."""
        if threads is not None and not sys.platform.startswith("linux"):
            raise S2PError("Apple's runtime cannot be told how many threads to use", "leave `threads` out", "threads")
        self._engine.ask("its start", {"do": "start", "threads": threads})
        if sys.platform != "darwin":
            warnings.warn(SLOW_HERE, S2PWarning, stacklevel=2)

    @property
    def process_id(self) -> int | None:
        """The process that holds the programs, once it is started: what a measurement of memory looks at."""
        return self._engine.process_id

    def describe(self, component: str) -> str:
        """See :class:`s2p_runtime.backends.Backend`."""
        program = self.bundle.manifest.unet if component == "unet" else self.bundle.component(component)[0]
        how = "float16 computed in float32" if self._wide and program.precision == "float16" else program.precision
        return f"Apple's Core AI runtime on the CPU, {how}, {program.backend}"

    def _load(self, component: str, method: str) -> None:
        """
        Raises:
            S2PError: the program was altered since the bundle was opened, or is none for this runtime.
        """
        if (component, method) in self._loaded:
            return
        spec, path = self.bundle.component(component)
        program, noted = path / "main.mlirb", path / "main.hash"
        for file in (program, noted):
            if not file.is_file():
                raise S2PError(f"{spec.path} of {self.bundle.folder.name} lacks {file.name}", "get the folder again")
        with program.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").digest()
        if found != noted.read_bytes():
            raise S2PError(f"{spec.path} of {self.bundle.folder.name} is damaged (main.hash differs)", "get the folder again")
        self._engine.load(component, path, method, self._wide and spec.precision == "float16")
        self._loaded.add((component, method))

    def _let_go(self, component: str) -> None:
        self._loaded = {key for key in self._loaded if key[0] != component}
        self._engine.ask(component, {"do": "drop", "key": component})

    def _unet_inputs(self, sample: Array32, step: int, conditions: Mapping[str, Array32]) -> dict[str, Array]:
        manifest = self.bundle.manifest
        if all(port.name != "timestep" for port in manifest.unet.inputs):
            return super()._unet_inputs(sample, step, conditions)
        told = told_timestep(manifest.plan.calls[step].timestep)
        return {"sample": sample, "timestep": np.full(sample.shape[0], told, np.float32), **conditions}

    def _call(self, component: str, method: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        spec, _ = self.bundle.component(component)
        ports = [self._computed(port_at_size(self.bundle, port, method)) for port in spec.inputs]
        feeds = {port.name: inputs[port.name] for port in ports}
        for port in ports:
            check_input(feeds[port.name], port, component)
        return {name: np.asarray(value) for name, value in self._engine.run(component, method, feeds).items()}

    def _computed(self, port: TensorSpec) -> TensorSpec:
        """A port as the program has it that runs."""
        return port.model_copy(update={"dtype": "float32"}) if self._wide and port.dtype == "float16" else port
