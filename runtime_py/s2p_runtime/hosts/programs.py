"""What the backends of all hosts do alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.backends import Array32
from s2p_runtime.bundle import Bundle, PictureSize
from s2p_runtime.component import TensorSpec
from s2p_runtime.errors import S2PError
from s2p_runtime.unet_programs import run_programs

Array = NDArray[Any]


class ProgramBackend(ABC):
    """Components as programs of several methods, loaded at first use; the U-Net as one program or several. See
    :class:`s2p_runtime.backends.Backend`.

    Subclasses say how one method of one program is loaded, called and let go of.
    """

    def __init__(self, bundle: Bundle, default_method: str, release_chunks: bool = False) -> None:
        """
        Args:
            default_method: of a program that has but one, and of the bundle's own picture size.
            release_chunks: let go of each program of a U-Net in several when it has run.
        """
        self.bundle, self.default_method, self.release_chunks = bundle, default_method, release_chunks

    @abstractmethod
    def start(self, threads: int | None = None) -> None:
        """See :class:`s2p_runtime.backends.Backend`."""

    @abstractmethod
    def describe(self, component: str) -> str:
        """See :class:`s2p_runtime.backends.Backend`."""

    @abstractmethod
    def _load(self, component: str, method: str) -> None:
        """Load a method of a program, if it is not loaded yet."""

    @abstractmethod
    def _call(self, component: str, method: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One call of a method; its outputs by the manifest's names, in whatever precision they are computed."""

    @abstractmethod
    def _let_go(self, component: str) -> None:
        """Forget a loaded program."""

    def _unet_inputs(self, sample: Array32, step: int, conditions: Mapping[str, Array32]) -> dict[str, Array]:
        """Inputs of the whole U-Net, by the names of the manifest."""
        return {"sample": sample, "step": np.array([step], self._port("step").dtype), **conditions}

    def _port(self, name: str) -> TensorSpec:
        """An input of the U-Net."""
        return next(port for port in self.bundle.manifest.unet.inputs if port.name == name)

    def load(self, component: str) -> None:
        """See :class:`s2p_runtime.backends.Backend`: at the bundle's own picture size.

        Raises:
            S2PError: the bundle has no such component, or the file is no program for this engine.
        """
        for name in tuple(self.bundle.manifest.unet_programs) if component == "unet" else (component,):
            self._load(name, self.default_method)
            self._release(name)

    def run(self, component: str, inputs: Mapping[str, Array]) -> dict[str, Array32]:
        """See :class:`s2p_runtime.backends.Backend`.

        Raises:
            S2PError: wrong shape or dtype, or the program cannot run.
        """
        return {name: value.astype(np.float32) for name, value in self._outputs(component, self.default_method, inputs).items()}

    def predict(self, sample: Array32, step: int, conditions: Mapping[str, Array32]) -> Array32:
        """See :class:`s2p_runtime.backends.Backend`.

        Raises:
            S2PError: wrong shape or dtype, a step outside of the plan, or the program cannot run.
        """
        manifest = self.bundle.manifest
        calls = len(manifest.plan.calls)
        if not 0 <= step < calls:
            raise S2PError(f"step {step} is outside of the plan's {calls} calls", f"give 0 to {calls - 1}")
        method = self._method_for(sample)
        given = self._unet_inputs(sample, step, conditions)
        output = run_programs(manifest.unet_programs, given, lambda name, inputs: self._outputs(name, method, inputs))
        return output.astype(np.float32)

    def decode(self, latents: Array32) -> Array32:
        """See :class:`s2p_runtime.backends.Backend`.

        Raises:
            S2PError: wrong shape or dtype, or the program cannot run.
        """
        component, _ = self.bundle.component("vae_decoder")
        outputs = self._outputs("vae_decoder", self._method_for(latents), {component.inputs[0].name: latents})
        return outputs[component.outputs[0].name].astype(np.float32)

    def encode(self, image: Array32) -> Array32:
        """See :class:`s2p_runtime.backends.Backend`.

        Raises:
            S2PError: no such component, wrong shape or dtype, or the program cannot run.
        """
        component, _ = self.bundle.component("vae_encoder")
        method = self.bundle.manifest.size_of_picture(image.shape).method or self.default_method
        outputs = self._outputs("vae_encoder", method, {component.inputs[0].name: image})
        return outputs[component.outputs[0].name].astype(np.float32)

    def _method_for(self, latents: Array32) -> str:
        return self.bundle.manifest.size_of(latents.shape).method or self.default_method

    def _outputs(self, component: str, method: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self._load(component, method)
        outputs = self._call(component, method, inputs)
        self._release(component)
        for port in self.bundle.component(component)[0].outputs:
            if port.name not in outputs:
                raise S2PError(
                    f"{component} of {self.bundle.folder.name} has no output {port.name}", "convert the checkpoint again"
                )
        return outputs

    def _release(self, component: str) -> None:
        if self.release_chunks and component in self.bundle.manifest.chunks:
            self._let_go(component)


def port_at_size(bundle: Bundle, port: TensorSpec, method: str) -> TensorSpec:
    """An input as a method of another picture size than the own takes it."""
    return next((resized(port, size) for size in bundle.manifest.sizes if size.method == method), port)


_OF_LATENTS, _OF_PICTURES = ("sample", "latents"), ("image",)


def resized(spec: TensorSpec, size: PictureSize) -> TensorSpec:
    """The manifest's entry of an input of latents or a picture [..., H, W] at another picture size; others as they are."""
    if spec.name in _OF_LATENTS:
        return spec.model_copy(update={"shape": (*spec.shape[:-2], size.latent_height, size.latent_width)})
    if spec.name in _OF_PICTURES:
        return spec.model_copy(update={"shape": (*spec.shape[:-2], size.height, size.width)})
    return spec


def check_input(given: Array, wanted: TensorSpec, component: str) -> None:
    """Compare an array with a manifest entry.

    Raises:
        S2PError: other shape or dtype.
    """
    if given.dtype != np.dtype(wanted.dtype) or given.shape != wanted.shape:
        raise S2PError(
            f"{component} takes {wanted.name} as {wanted.dtype} {list(wanted.shape)}, not {given.dtype} {list(given.shape)}",
            "use the shapes of the manifest",
        )
