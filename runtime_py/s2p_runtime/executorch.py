"""ExecuTorch bundles through ExecuTorch's own Python runtime (``pip install executorch``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.bundle import Bundle, PictureSize
from s2p_runtime.chunks import run_programs
from s2p_runtime.component import TensorSpec
from s2p_runtime.errors import S2PError
from s2p_runtime.files import sha256_file
from s2p_runtime.quiet import quiet_import

Array32 = NDArray[np.float32]
DEFAULT_METHOD = "forward"
"""Of a program that has but one."""


def installed_version() -> str:
    """Version of the installed executorch.

    Raises:
        S2PError: it is not installed.
    """
    try:
        return version("executorch")
    except PackageNotFoundError:
        raise S2PError("this bundle needs executorch, which is not installed", "run pip install executorch") from None


def check_version(built_with: str, installed: str, bundle: str) -> None:
    """Refuse programs of another minor version: ExecuTorch promises no compatibility of delegates across them.

    Args:
        built_with: a component's ``backend``, e.g. ``xnnpack executorch 1.4.1``.

    Raises:
        S2PError: built by another version, or for a backend that cannot run here.
    """
    match = re.fullmatch(r"(\w+) executorch (\d+)\.(\d+)\S*", built_with)
    if match is None:
        raise S2PError(f"{bundle} does not say which executorch made it ({built_with!r})", "convert the checkpoint again")
    backend, made = match[1], built_with.rsplit(" ", 1)[1]
    if backend != "xnnpack":
        raise S2PError(
            f"{bundle} is built for the {backend} backend, which does not run here", "convert with `backend=xnnpack`", "backend"
        )
    if installed.split(".")[:2] != [match[2], match[3]]:
        raise S2PError(
            f"{bundle} was made by executorch {made}, installed is {installed}",
            f"run pip install executorch=={made}, or convert again",
        )


class ExecuTorchBackend:
    """Runs the .pte components of a bundle. Programs are loaded at first use, and of several picture sizes only those in use."""

    def __init__(self, bundle: Bundle, release_chunks: bool = False) -> None:
        """
        Args:
            release_chunks: let go of each program of a U-Net in several when it has run.

        Raises:
            S2PError: the bundle is for another target or another executorch, or executorch is not installed.
        """
        manifest = bundle.manifest
        if manifest.target != "executorch":
            raise S2PError(
                f"{bundle.folder.name} is a bundle for {manifest.target}, not for ExecuTorch",
                "convert with `target=executorch`",
                "target",
            )
        installed = installed_version()
        for component in manifest.components.values():
            check_version(component.backend, installed, bundle.folder.name)
        self.bundle, self.release_chunks = bundle, release_chunks
        self._checked: set[str] = set()
        self._programs: dict[str, Any] = {}
        self._methods: dict[tuple[str, str], Any] = {}

    def load(self, component: str) -> None:
        """Load a component now instead of at its first use, at the bundle's own picture size.

        Raises:
            S2PError: the file was altered or truncated since the bundle was opened, or is no program for this runtime.
        """
        names = tuple(self.bundle.manifest.unet_programs) if component == "unet" else (component,)
        for name in names:
            self._method(name, DEFAULT_METHOD)
            self._let_go(name)

    def _let_go(self, component: str) -> None:
        if self.release_chunks and component in self.bundle.manifest.chunks:
            # The method first: it points into the program's memory.
            self._methods = {key: method for key, method in self._methods.items() if key[0] != component}
            self._programs.pop(component, None)

    def _method(self, component: str, name: str) -> Any:
        """A loaded method of a component."""
        if (component, name) in self._methods:
            return self._methods[component, name]
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
                method = self._programs[component].load_method(name)
            if method is None:
                raise ValueError(f"it has no method {name}")
        except (RuntimeError, ValueError, KeyError, ImportError) as error:
            reason = str(error).splitlines()[0]
            raise S2PError(f"executorch cannot load {spec.path} ({reason})", "convert the checkpoint again") from error
        self._methods[component, name] = method
        return method

    def describe(self, component: str) -> str:
        """See :class:`s2p_runtime.backends.Backend`."""
        manifest = self.bundle.manifest
        return (manifest.unet if component == "unet" else self.bundle.component(component)[0]).backend

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

    def _run(self, component: str, inputs: Sequence[NDArray[Any]], size: PictureSize | None = None) -> Array32:
        """The first output of one call."""
        return self._outputs(component, inputs, size)[0]

    def _outputs(self, component: str, inputs: Sequence[NDArray[Any]], size: PictureSize | None = None) -> list[Array32]:
        """One call; ``size`` is that of the first input where there may be several."""
        spec, _ = self.bundle.component(component)
        first = spec.inputs[0] if size is None else resized(spec.inputs[0], size)
        for given, wanted in zip(inputs, (first, *spec.inputs[1:]), strict=True):
            check_input(given, wanted, component)
        method = self._method(component, (None if size is None else size.method) or DEFAULT_METHOD)
        import torch

        try:
            with quiet_import():
                outputs = method.execute([torch.from_numpy(np.ascontiguousarray(x)) for x in inputs])
        except RuntimeError as error:
            raise S2PError(
                f"{component} failed to run ({str(error).splitlines()[0]})", "convert the checkpoint again"
            ) from error
        # The runtime reuses its output buffer in the next call.
        results = [output.numpy().astype(np.float32, copy=True) for output in outputs]
        del outputs, method
        self._let_go(component)
        return results

    def encode_text(self, input_ids: NDArray[np.int32]) -> Array32:
        """See :class:`s2p_runtime.backends.Backend`."""
        return self._run("text_encoder", [input_ids])

    def encode_pooled(self, input_ids: NDArray[np.int32], second_input_ids: NDArray[np.int32]) -> tuple[Array32, Array32]:
        """See :class:`s2p_runtime.backends.Backend`."""
        hidden, pooled = self._outputs("text_encoder", [input_ids, second_input_ids])
        return hidden, pooled

    def time_table(self, pooled: Array32, time_ids: Array32) -> Array32:
        """See :class:`s2p_runtime.backends.Backend`."""
        return self._run("time_table", [pooled, time_ids])

    def predict(self, sample: Array32, step: int, embeddings: Array32, time_table: Array32 | None = None) -> Array32:
        """See :class:`s2p_runtime.backends.Backend`.

        Raises:
            S2PError: wrong shape or dtype, or a step outside of the plan.
        """
        calls = len(self.bundle.manifest.plan.calls)
        if not 0 <= step < calls:
            raise S2PError(f"step {step} is outside of the plan's {calls} calls", f"give 0 to {calls - 1}")
        manifest = self.bundle.manifest
        inputs: dict[str, NDArray[Any]] = {
            "sample": sample, "step": np.array([step], np.int64), "encoder_hidden_states": embeddings
        }  # fmt: skip
        inputs |= {} if time_table is None else {"time_table": time_table}
        size = manifest.size_of(sample.shape)

        def run(name: str, given: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            outputs = self._outputs(name, list(given.values()), None if manifest.chunks else size)
            return {port.name: output for port, output in zip(manifest.components[name].outputs, outputs, strict=True)}

        return run_programs(manifest.unet_programs, inputs, run)

    def decode(self, latents: Array32) -> Array32:
        """See :class:`s2p_runtime.backends.Backend`."""
        return self._run("vae_decoder", [latents], self.bundle.manifest.size_of(latents.shape))


def resized(spec: TensorSpec, size: PictureSize) -> TensorSpec:
    """The manifest's entry of latents [..., H, W], at another picture size."""
    return spec.model_copy(update={"shape": (*spec.shape[:-2], size.latent_height, size.latent_width)})


def check_input(given: NDArray[Any], wanted: TensorSpec, component: str) -> None:
    """Compare an array with a manifest entry.

    Raises:
        S2PError: other shape or dtype.
    """
    if given.dtype != np.dtype(wanted.dtype) or given.shape != wanted.shape:
        raise S2PError(
            f"{component} takes {wanted.name} as {wanted.dtype} {list(wanted.shape)}, not {given.dtype} {list(given.shape)}",
            "use the shapes of the manifest",
        )
