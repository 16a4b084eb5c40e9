"""Does an emitted program compute what it should? Asked before golden runs are recorded with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.float_components import FloatComponent
from s2p_converters.targets.options import TargetOptions
from s2p_converters.targets.protocol import Target
from s2p_runtime.backends import Backend
from s2p_runtime.bundle import Bundle
from s2p_runtime.conditioning import conditioner_of
from s2p_runtime.errors import CheckFailed
from s2p_runtime.pictures import relative_error
from s2p_runtime.progress import Progress
from s2p_runtime.tensors import read_tensors
from s2p_runtime.verify import exact_errors, size_errors

_TITLES = {"unet": "U-Net"}


def require_near(title: str, error: float, tolerance: float) -> None:
    """Demand that a program is as near to its reference as it should.

    Args:
        title: of what it computes.
        error: relative.

    Raises:
        CheckFailed: it is not.
    """
    if not error <= tolerance:
        raise CheckFailed(
            f"the emitted {title} differs from its reference (relative error {error:.2e}, allowed {tolerance:.0e})",
            "please report the model and the options",
        )


@dataclass(frozen=True)
class SelfCheck:
    """The checks of one conversion.

    Attributes:
        components: float components by name, each with its networks at every size: the own first.
    """

    target: Target[Any]
    options: TargetOptions
    checkpoint: Checkpoint
    components: Mapping[str, tuple[FloatComponent, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """What is run: those components for which the target has a tolerance."""
        return tuple(name for name in self.components if self._tolerance(name) is not None)

    def run(self, backend: Backend, progress: Progress) -> None:
        """Run the programs.

        Raises:
            CheckFailed: one computes something else than its reference.
        """
        with progress.stage("self-check", len(self.names) + 1) as advance:
            for name in self.names:
                for error in self._float_errors(name, backend):
                    self._demand(name, error)
                advance()
            for name, error in self._prompt_errors(backend):
                self._demand(name, error)
            advance()

    def _tolerance(self, component: str) -> float | None:
        if not self.target.runs_here(self.checkpoint, self.options, component):
            return None
        return self.target.self_check_tolerance(self.options, component)

    def _demand(self, component: str, error: float) -> None:
        tolerance = self._tolerance(component)
        if tolerance is not None:
            title = self.components[component][0].title if component in self.components else _TITLES[component]
            require_near(title, error, tolerance)

    def run_unet(self, bundle: Bundle, backend: Backend, progress: Progress) -> None:
        """Run the U-Net at the exact call of the first golden run, where the target can.

        Raises:
            CheckFailed: it computes something else than its reference.
        """
        if self._tolerance("unet") is None:
            return
        with progress.stage("U-Net against its reference", 1) as advance:
            for error in exact_errors(bundle, backend, bundle.manifest.golden[0]):
                self._demand("unet", error)
            advance()

    def _float_errors(self, name: str, backend: Backend) -> Iterator[float]:
        """Against the source's network, at every size that the component is there for."""
        parts = self.components[name]
        module = parts[0].load()
        module = module.double() if parts[0].needs_float32 else module
        for part in parts:
            inputs = part.check_inputs()
            found = _found(name, backend, inputs)
            for output, wanted in part.call(module, inputs).items():
                yield relative_error(found[output], wanted)

    def _prompt_errors(self, backend: Backend) -> Iterator[tuple[str, float]]:
        """A golden prompt against what the source model itself made of it, and not the networks taken from it."""
        conditioner = conditioner_of(self.checkpoint.manifest)
        if not set(conditioner.components) <= set(self.names):
            return
        fp = read_tensors(self.checkpoint.folder / self.checkpoint.manifest.golden[0].path)
        found: dict[str, NDArray[Any]] = conditioner.encode(backend.run, fp)
        for tensor, component in conditioner.made_by.items():
            if tensor in fp:
                yield component, relative_error(found[tensor], fp[tensor])


def _found(name: str, backend: Backend, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Outputs of a float component by the names of its network's ports."""
    if name == "vae_decoder":
        return {"image": backend.decode(inputs["latents"])}
    if name == "vae_encoder":
        return {"moments": backend.encode(inputs["image"])}
    return dict(backend.run(name, inputs))


def check_sizes(target: Target[Any], bundle: Bundle, backend: Backend) -> None:
    """Run the recorded calls of every size but the own.

    Raises:
        CheckFailed: a program computes something else at a size.
    """
    for size in bundle.manifest.sizes[1:]:
        for component, error in size_errors(bundle, backend, size).items():
            tolerance = target.host.tolerance(bundle.manifest, component)
            if not error <= tolerance:
                raise CheckFailed(
                    f"the emitted {component} differs from its reference at {size.title} (relative error {error:.2e}, "
                    f"allowed {tolerance:.0e})",
                    "report the model and the options",
                )
