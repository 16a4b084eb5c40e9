"""Core ML bundles through the MIL reference interpreter."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.backends import Array32, Compute
from s2p_runtime.bundle import Bundle
from s2p_runtime.errors import S2PError
from s2p_runtime.mil import Program, load_program


class InterpreterBackend:
    """Runs the three .mlpackage components of a Core ML bundle. Programs are read at first use."""

    def __init__(self, bundle: Bundle, compute: Compute) -> None:
        """
        Raises:
            S2PError: the bundle is for another target.
        """
        if bundle.manifest.target != "coreml":
            raise S2PError(f"{bundle.folder.name} is a bundle for {bundle.manifest.target}, not for Core ML")
        self.bundle, self.compute = bundle, compute

    def program(self, component: str) -> Program:
        """The loaded program of a component."""
        programs = {"text_encoder": self._text_encoder, "unet": self._unet, "vae_decoder": self._vae_decoder}
        return programs[component]

    @cached_property
    def _text_encoder(self) -> Program:
        return load_program(self.bundle.component("text_encoder")[1])

    @cached_property
    def _unet(self) -> Program:
        return load_program(self.bundle.component("unet")[1])

    @cached_property
    def _vae_decoder(self) -> Program:
        return load_program(self.bundle.component("vae_decoder")[1])

    def _run(self, program: Program, feeds: dict[str, NDArray[Any]], output: str) -> Array32:
        results = program.run(feeds, compute=self.compute)
        if output not in results:
            raise S2PError(f"a component of {self.bundle.folder.name} has no output {output}; convert the checkpoint again")
        return results[output].astype(np.float32)

    def encode_text(self, input_ids: NDArray[np.int32]) -> Array32:
        """See :class:`s2p_runtime.backends.Backend`."""
        return self._run(self._text_encoder, {"input_ids": input_ids}, "last_hidden_state")

    def predict(self, sample: Array32, step: int, embeddings: Array32) -> Array32:
        """See :class:`s2p_runtime.backends.Backend`."""
        feeds = {"sample": sample, "step": np.array([step], np.int32), "encoder_hidden_states": embeddings}
        return self._run(self._unet, feeds, "noise_pred")

    def decode(self, latents: Array32) -> Array32:
        """See :class:`s2p_runtime.backends.Backend`."""
        return self._run(self._vae_decoder, {"latents": latents}, "image")
