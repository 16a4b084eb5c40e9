"""Core ML bundles through the MIL reference interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.backends import Array32, Compute
from s2p_runtime.bundle import Bundle
from s2p_runtime.chunks import run_programs
from s2p_runtime.component import Component
from s2p_runtime.errors import S2PError
from s2p_runtime.feeds import Feeds, decoder_feeds, text_feeds, unet_feeds
from s2p_runtime.mil import Program, load_program

DEFAULT_FUNCTION = "main"
"""Of a program that has but one."""


class InterpreterBackend:
    """Runs the .mlpackage components of a Core ML bundle. Programs are read at first use."""

    def __init__(self, bundle: Bundle, compute: Compute, release_chunks: bool = False) -> None:
        """
        Args:
            release_chunks: let go of each program of a U-Net in several when it has run.

        Raises:
            S2PError: the bundle is for another target.
        """
        if bundle.manifest.target != "coreml":
            raise S2PError(
                f"{bundle.folder.name} is a bundle for {bundle.manifest.target}, not for Core ML", "open it with open_backend"
            )
        self.bundle, self.compute, self.release_chunks = bundle, compute, release_chunks
        self._programs: dict[str, Program] = {}

    def load(self, component: str) -> None:
        """See :class:`s2p_runtime.backends.Backend`. Weights are decompressed when a run needs them."""
        if component == "unet" and self.bundle.manifest.chunks:
            for name in self.bundle.manifest.chunks:
                self.load(name)
                self._let_go(name)
        elif component not in self._programs:
            self._programs[component] = load_program(self.bundle.component(component)[1])

    def _let_go(self, component: str) -> None:
        if self.release_chunks and component in self.bundle.manifest.chunks:
            del self._programs[component]

    def describe(self, component: str) -> str:
        """See :class:`s2p_runtime.backends.Backend`."""
        arithmetic = "float64" if self.compute == "float64" else self._interface(component).precision
        return f"MIL reference interpreter on torch, {arithmetic}"

    def _interface(self, component: str) -> Component:
        return self.bundle.manifest.unet if component == "unet" else self.bundle.component(component)[0]

    def start(self, threads: int | None = None) -> None:
        """See :class:`s2p_runtime.backends.Backend`. The threads are torch's, of the whole process."""
        import torch

        from s2p_runtime.mil import interpreter, schema  # noqa: F401  (the operations)

        schema.new_model()
        if threads is not None:
            torch.set_num_threads(threads)

    def _run(self, component: str, feeds: dict[str, NDArray[Any]], output: str, function: str | None = None) -> Array32:
        return self._outputs(component, feeds, (output,), function)[0]

    def _outputs(
        self,
        component: str,
        feeds: dict[str, NDArray[Any]],
        outputs: tuple[str, ...],
        function: str | None = None,
    ) -> list[Array32]:
        results = self._results(component, feeds, outputs, function)
        return [results[output].astype(np.float32) for output in outputs]

    def _results(
        self, component: str, feeds: dict[str, NDArray[Any]], outputs: tuple[str, ...], function: str | None
    ) -> dict[str, NDArray[Any]]:
        """Outputs as the arithmetic leaves them, checked to be there; None: of the default function."""
        self.load(component)
        results = self._programs[component].run(feeds, compute=self.compute, function=function or DEFAULT_FUNCTION)
        self._let_go(component)
        for output in outputs:
            if output not in results:
                raise S2PError(
                    f"a component of {self.bundle.folder.name} has no output {output}", "convert the checkpoint again"
                )
        return results

    def encode_text(self, input_ids: NDArray[np.int32]) -> Array32:
        """See :class:`s2p_runtime.backends.Backend`."""
        feeds = text_feeds(self.bundle.component("text_encoder")[0], input_ids)
        return self._run("text_encoder", feeds, "last_hidden_state")

    def encode_pooled(self, input_ids: NDArray[np.int32], second_input_ids: NDArray[np.int32]) -> tuple[Array32, Array32]:
        """See :class:`s2p_runtime.backends.Backend`."""
        feeds: Feeds = {"input_ids": input_ids, "second_input_ids": second_input_ids}
        hidden, pooled = self._outputs("text_encoder", feeds, ("hidden_states", "pooled_text"))
        return hidden, pooled

    def time_table(self, pooled: Array32, time_ids: Array32) -> Array32:
        """See :class:`s2p_runtime.backends.Backend`."""
        return self._run("time_table", {"pooled_text": pooled, "time_ids": time_ids}, "time_table")

    def predict(self, sample: Array32, step: int, embeddings: Array32, time_table: Array32 | None = None) -> Array32:
        """See :class:`s2p_runtime.backends.Backend`."""
        manifest = self.bundle.manifest
        feeds = unet_feeds(manifest.unet, manifest.plan, sample, step, embeddings)
        feeds |= {} if time_table is None else {"time_table": time_table}
        method = manifest.size_of(sample.shape).method

        def run(name: str, given: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return self._results(name, given, tuple(port.name for port in manifest.components[name].outputs), method)

        return run_programs(manifest.unet_programs, feeds, run).astype(np.float32)

    def decode(self, latents: Array32) -> Array32:
        """See :class:`s2p_runtime.backends.Backend`."""
        feeds = decoder_feeds(self.bundle.component("vae_decoder")[0], latents)
        return self._run("vae_decoder", feeds, "image", self.bundle.manifest.size_of(latents.shape).method)
