"""Core ML bundles through the MIL reference interpreter."""

from __future__ import annotations

from collections.abc import Mapping

from s2p_runtime.backends import Array32, Compute
from s2p_runtime.bundle import Bundle
from s2p_runtime.component import Component
from s2p_runtime.hosts.coreml.feeds import timestep_feeds
from s2p_runtime.hosts.coreml.mil import Program, load_program
from s2p_runtime.hosts.programs import Array, ProgramBackend


class InterpreterBackend(ProgramBackend):
    """Runs the .mlpackage components of a Core ML bundle. Programs are read at first use, their weights decompressed when a run
    needs them."""

    def __init__(self, bundle: Bundle, default_method: str, compute: Compute, release_chunks: bool = False) -> None:
        """
        Args:
            default_method, release_chunks: see :class:`ProgramBackend`.
            compute: in the precision that the program declares, or in double.
        """
        super().__init__(bundle, default_method, release_chunks)
        self.compute = compute
        self._programs: dict[str, Program] = {}

    def start(self, threads: int | None = None) -> None:
        """See :class:`s2p_runtime.backends.Backend`. The threads are torch's, of the whole process."""
        import torch

        from s2p_runtime.hosts.coreml.mil import interpreter, schema  # noqa: F401  (the operations)

        schema.new_model()
        if threads is not None:
            torch.set_num_threads(threads)

    def describe(self, component: str) -> str:
        """See :class:`s2p_runtime.backends.Backend`."""
        arithmetic = "float64" if self.compute == "float64" else self._interface(component).precision
        return f"MIL reference interpreter on torch, {arithmetic}"

    def _interface(self, component: str) -> Component:
        return self.bundle.manifest.unet if component == "unet" else self.bundle.component(component)[0]

    def _load(self, component: str, method: str) -> None:
        if component not in self._programs:
            self._programs[component] = load_program(self.bundle.component(component)[1])

    def _let_go(self, component: str) -> None:
        self._programs.pop(component, None)

    def _unet_inputs(self, sample: Array32, step: int, conditions: Mapping[str, Array32]) -> dict[str, Array]:
        manifest = self.bundle.manifest
        if any(port.name == "timestep" for port in manifest.unet.inputs):
            return timestep_feeds(manifest.plan, sample, step, conditions)
        return super()._unet_inputs(sample, step, conditions)

    def _call(self, component: str, method: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        # Token ids come as integers and may be asked for as floats.
        dtypes = {port.name: port.dtype for port in self.bundle.component(component)[0].inputs}
        feeds = {name: value.astype(dtypes[name]) if value.dtype.kind == "i" else value for name, value in inputs.items()}
        return dict(self._programs[component].run(feeds, compute=self.compute, function=method))
