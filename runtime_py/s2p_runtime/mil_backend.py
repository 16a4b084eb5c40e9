"""Core ML bundles through the MIL reference interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.backends import Array32, Compute
from s2p_runtime.bundle import DEFAULT_METHOD, Bundle
from s2p_runtime.errors import S2PError
from s2p_runtime.feeds import Feeds, decoder_feeds, text_feeds, unet_feeds
from s2p_runtime.mil import Program, load_program


class InterpreterBackend:
    """Runs the .mlpackage components of a Core ML bundle. Programs are read at first use."""

    def __init__(self, bundle: Bundle, compute: Compute) -> None:
        """
        Raises:
            S2PError: the bundle is for another target.
        """
        if bundle.manifest.target != "coreml":
            raise S2PError(f"{bundle.folder.name} is a bundle for {bundle.manifest.target}, not for Core ML")
        self.bundle, self.compute = bundle, compute
        self._programs: dict[str, Program] = {}

    def load(self, component: str) -> None:
        """See :class:`s2p_runtime.backends.Backend`. Weights are decompressed when a run needs them."""
        if component not in self._programs:
            self._programs[component] = load_program(self.bundle.component(component)[1])

    def describe(self, component: str) -> str:
        """See :class:`s2p_runtime.backends.Backend`."""
        arithmetic = "float64" if self.compute == "float64" else self.bundle.component(component)[0].precision
        return f"MIL reference interpreter on torch, {arithmetic}"

    def start(self, threads: int | None = None) -> None:
        """See :class:`s2p_runtime.backends.Backend`. The threads are torch's, of the whole process."""
        import torch

        from s2p_runtime.mil import interpreter, schema  # noqa: F401  (the operations)

        schema.new_model()
        if threads is not None:
            torch.set_num_threads(threads)

    def _run(
        self, component: str, feeds: dict[str, NDArray[Any]], output: str, function: str = DEFAULT_METHOD["coreml"]
    ) -> Array32:
        return self._outputs(component, feeds, (output,), function)[0]

    def _outputs(
        self,
        component: str,
        feeds: dict[str, NDArray[Any]],
        outputs: tuple[str, ...],
        function: str = DEFAULT_METHOD["coreml"],
    ) -> list[Array32]:
        self.load(component)
        results = self._programs[component].run(feeds, compute=self.compute, function=function)
        for output in outputs:
            if output not in results:
                raise S2PError(f"a component of {self.bundle.folder.name} has no output {output}; convert the checkpoint again")
        return [results[output].astype(np.float32) for output in outputs]

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
        feeds = unet_feeds(self.bundle.component("unet")[0], self.bundle.manifest.plan, sample, step, embeddings)
        feeds |= {} if time_table is None else {"time_table": time_table}
        return self._run("unet", feeds, "noise_pred", self.bundle.manifest.size_of(sample.shape).method)

    def decode(self, latents: Array32) -> Array32:
        """See :class:`s2p_runtime.backends.Backend`."""
        feeds = decoder_feeds(self.bundle.component("vae_decoder")[0], latents)
        return self._run("vae_decoder", feeds, "image", self.bundle.manifest.size_of(latents.shape).method)
