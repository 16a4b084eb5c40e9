"""The components of an ExecuTorch bundle in ExecuTorch's own Python runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from s2p_runtime.bundle import Bundle
from s2p_runtime.errors import S2PError
from s2p_runtime.files import sha256_file
from s2p_runtime.hosts.executorch.delegates import check_version, installed_version
from s2p_runtime.hosts.programs import Array, ProgramBackend, check_input, port_at_size
from s2p_runtime.quiet import quiet_import


class ExecuTorchBackend(ProgramBackend):
    """Runs the .pte components of a bundle. Programs are loaded at first use, and of several picture sizes only those in use."""

    def __init__(self, bundle: Bundle, default_method: str, release_chunks: bool = False) -> None:
        """
        Args:
            default_method, release_chunks: see :class:`ProgramBackend`.

        Raises:
            S2PError: the bundle is for another executorch, or executorch is not installed.
        """
        super().__init__(bundle, default_method, release_chunks)
        installed = installed_version()
        for component in bundle.manifest.components.values():
            check_version(component.backend, installed, bundle.folder.name)
        self._checked: set[str] = set()
        self._programs: dict[str, Any] = {}
        self._methods: dict[tuple[str, str], Any] = {}

    def start(self, threads: int | None = None) -> None:
        """See :class:`s2p_runtime.backends.Backend`. The threads are XNNPACK's, of the whole process."""
        with quiet_import():
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime

            Runtime.get()
            if threads is None:
                return
            reset = getattr(portable_lib, "_unsafe_reset_threadpool", None)
            ask = getattr(portable_lib, "_threadpool_get_thread_count", None)
            if reset is not None:
                reset(threads)
        if ask is None or ask() != threads:
            raise S2PError(f"this executorch cannot be told to use {threads} threads", "leave `threads` out", "threads")

    def describe(self, component: str) -> str:
        """See :class:`s2p_runtime.backends.Backend`."""
        manifest = self.bundle.manifest
        return (manifest.unet if component == "unet" else self.bundle.component(component)[0]).backend

    def _load(self, component: str, method: str) -> None:
        """
        Raises:
            S2PError: the file was altered or truncated since the bundle was opened, or is no program for this runtime.
        """
        if (component, method) in self._methods:
            return
        spec, path = self.bundle.component(component)
        if component not in self._checked and sha256_file(path) != self.bundle.manifest.files[spec.path].sha256:
            raise S2PError(f"{spec.path} in {self.bundle.folder.name} was altered (sha256 differs)", "get the folder again")
        self._checked.add(component)
        try:
            with quiet_import():
                from executorch.runtime import Runtime

                # A method points into the program's memory without keeping it alive.
                if component not in self._programs:
                    self._programs[component] = Runtime.get().load_program(path)
                loaded = self._programs[component].load_method(method)
            if loaded is None:
                raise ValueError(f"it has no method {method}")
        except (RuntimeError, ValueError, KeyError, ImportError) as error:
            reason = str(error).splitlines()[0]
            raise S2PError(f"executorch cannot load {spec.path} ({reason})", "convert the checkpoint again") from error
        self._methods[component, method] = loaded

    def _let_go(self, component: str) -> None:
        # The methods first: they point into the program's memory.
        self._methods = {key: method for key, method in self._methods.items() if key[0] != component}
        self._programs.pop(component, None)

    def _call(self, component: str, method: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        spec, _ = self.bundle.component(component)
        ports = [port_at_size(self.bundle, port, method) for port in spec.inputs]
        values = [inputs[port.name] for port in ports]
        for given, wanted in zip(values, ports, strict=True):
            check_input(given, wanted, component)
        import torch

        try:
            with quiet_import():
                outputs = self._methods[component, method].execute([torch.from_numpy(np.ascontiguousarray(x)) for x in values])
        except RuntimeError as error:
            raise S2PError(
                f"{component} failed to run ({str(error).splitlines()[0]})", "convert the checkpoint again"
            ) from error
        # The runtime reuses its output buffer in the next call.
        results = [output.numpy().astype(np.float32, copy=True) for output in outputs]
        return {port.name: result for port, result in zip(spec.outputs, results, strict=True)}
