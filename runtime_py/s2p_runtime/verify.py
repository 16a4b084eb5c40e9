"""Does a bundle compute what it was built to compute? Every component against the recorded golden runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.artist import Observe, final_states
from s2p_runtime.backends import Array32, Backend
from s2p_runtime.bundle import Bundle, GoldenRun, PictureSize
from s2p_runtime.conditioning import components_of, conditioner_of
from s2p_runtime.contract import Contract
from s2p_runtime.drawing import BundleArtist, decode_latents
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts import Host, host_of
from s2p_runtime.pictures import psnr_db, relative_error
from s2p_runtime.progress import Advance, Progress, Silent
from s2p_runtime.tensors import read_tensors
from s2p_runtime.walker import denoise, guide

Array = NDArray[Any]

SAMPLER_TOLERANCE = 1e-6
"""The plan's rows over recorded outputs: sums in double rounded to float32 on both sides."""

MINIMUM_LATENT_PSNR_DB = 30.0
"""Final latents as the program's own precision gives them against the golden ones: below this the picture is another one. The
harnesses of the devices use the same number; docs/formats.md says why."""


class ComponentCheck(Contract):
    """Worst relative error of a component over all golden runs."""

    max_relative_error: float | None
    tolerance: float
    ok: bool


class GoldenCheck(Contract):
    """Final latents in the program's own precision; PSNR null when they are equal."""

    id: str
    latent_psnr_db: float | None
    ok: bool


class Verification(Contract):
    """Result of :func:`verify`."""

    ok: bool
    components: dict[str, ComponentCheck]
    golden: tuple[GoldenCheck, ...]
    altered_constants: tuple[str, ...] = ()


_GOLDEN_TENSORS = (
    "initial_latents",
    "noise_pred_calls",
    "noise_pred",
    "quantized_latents",
    "fp_latents",
    "image",
)
"""Besides those of the prompt, which its conditioner names."""


def read_golden(bundle: Bundle, run: GoldenRun) -> dict[str, Array]:
    """Tensors of a golden run.

    Raises:
        S2PError: unreadable file or a tensor missing.
    """
    tensors = read_tensors(bundle.path(run.path))
    conditioner = conditioner_of(bundle.manifest)
    for name in (*conditioner.token_inputs.values(), *_GOLDEN_TENSORS, *conditioner.tensors):
        if name not in tensors:
            raise S2PError(f"golden run {run.id} of {bundle.folder.name} lacks {name}", "convert the checkpoint again")
    return tensors


def verify(bundle: Bundle, progress: Progress | None = None) -> Verification:
    """Run what encodes prompts, the whole denoising loop and the VAE decoder of every golden run.

    Every U-Net call is checked at its recorded input, then the loop runs freely and its end gives a PSNR. Where the host evaluates
    exactly, programs are checked in float64 and run freely in their declared precision, so that the PSNR shows what fp16 arithmetic
    leaves. Picture sizes beside the bundle's own are checked at their recorded calls.

    Raises:
        S2PError: a golden run is unreadable, or a component cannot run.
    """
    host, listener, calls = host_of(bundle), progress or Silent(), len(bundle.manifest.plan.calls)
    checks = _Checks(bundle, host)
    declared = host.open(bundle, "declared") if host.exact else checks.backend
    golden = []
    for run in bundle.manifest.golden:
        tensors = read_golden(bundle, run)
        with listener.stage(f"golden run {run.id}", 2 * calls) as advance:
            checks.golden_run(run, tensors, advance)
            final = free_run(bundle, declared, run, tensors, lambda *_: advance())
        psnr = psnr_db(final, tensors["quantized_latents"])
        golden.append(GoldenCheck(id=run.id, latent_psnr_db=_finite(psnr), ok=psnr is None or psnr >= MINIMUM_LATENT_PSNR_DB))
    for size in bundle.manifest.sizes[1:]:
        with listener.stage(f"size {size.title}", 1) as advance:
            for name, error in size_errors(bundle, checks.backend, size).items():
                checks.update(name, error)
            advance()
    components, altered = checks.results(), host.altered_constants(bundle)
    ok = bool(golden) and not altered and all(c.ok for c in components.values()) and all(g.ok for g in golden)
    return Verification(ok=ok, components=components, golden=tuple(golden), altered_constants=altered)


_SIZE_TENSORS = ("sample", "noise_pred_calls", "noise_pred", "latents", "image")


def size_errors(bundle: Bundle, backend: Backend, size: PictureSize) -> dict[str, float]:
    """Largest relative errors of ``unet`` and ``vae_decoder`` over the recorded calls of a size beside the bundle's own.

    Raises:
        S2PError: the recorded calls are unreadable, or a component cannot run.
    """
    assert size.check is not None
    tensors, conditioner = read_tensors(bundle.path(size.check)), conditioner_of(bundle.manifest)
    for name in (*_SIZE_TENSORS, *conditioner.size_tensors):
        if name not in tensors:
            raise S2PError(f"{size.check} of {bundle.folder.name} lacks {name}", "convert the checkpoint again")
    conditions = conditioner.conditions(tensors).inputs
    errors = [
        relative_error(backend.predict(tensors["sample"], int(call), conditions), expected)
        for call, expected in zip(tensors["noise_pred_calls"], tensors["noise_pred"], strict=True)
    ]
    image = backend.decode(tensors["latents"])
    return {"unet": max(errors), "vae_decoder": relative_error(image, tensors["image"])}


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


class _Checks:
    """The checks of one bundle on one host, and the worst error of each component so far."""

    def __init__(self, bundle: Bundle, host: Host) -> None:
        self.bundle, self.host, self.manifest = bundle, host, bundle.manifest
        self.backend, self.conditioner = host.open(bundle, "float64"), conditioner_of(bundle.manifest)
        self._tolerances = {name: host.tolerance(bundle.manifest, name) for name in components_of(bundle)}
        self._tolerances["sampler"] = SAMPLER_TOLERANCE
        self._worst = dict.fromkeys(self._tolerances, 0.0)

    def update(self, component: str, error: float) -> None:
        """Take another error of a component into account."""
        self._worst[component] = max(self._worst[component], error)

    def results(self) -> dict[str, ComponentCheck]:
        """Every component's worst error."""
        return {
            name: ComponentCheck(
                max_relative_error=_finite(error), tolerance=self._tolerances[name], ok=error <= self._tolerances[name]
            )
            for name, error in self._worst.items()
        }

    def golden_run(self, run: GoldenRun, tensors: dict[str, Array], advance: Advance) -> None:
        """Every component against one golden run."""
        for name, error in self.conditioner.errors(self.backend.run, tensors):
            self.update(name, error)
        expected = {int(call): tensors["noise_pred"][k] for k, call in enumerate(tensors["noise_pred_calls"])}
        if len(expected) == len(self.manifest.plan.calls):
            self._calls(run, tensors, expected, advance)
        elif self.host.exact:
            self._loop(run, tensors, expected, advance)
        image = decode_latents(self.bundle, self.backend, tensors["quantized_latents"])
        self.update("vae_decoder", relative_error(image, tensors["image"]))

    def _calls(self, run: GoldenRun, tensors: dict[str, Array], expected: dict[int, Array], advance: Advance) -> None:
        """Every U-Net call at its recorded input. The rows over the recorded outputs give those inputs and the recorded end."""
        conditions = self.conditioner.conditions(tensors)

        def predict(sample: Array32, call: int) -> Array32:
            output = self.backend.predict(np.repeat(sample, conditions.branches, axis=0), call, conditions.inputs)
            self.update("unet", relative_error(output, expected[call]))
            advance()
            return guide(expected[call], self.manifest.guidance)

        final = denoise(self.manifest.plan, predict, tensors["initial_latents"], run.seed)
        self.update("sampler", relative_error(final, tensors["quantized_latents"]))

    def _loop(self, run: GoldenRun, tensors: dict[str, Array], expected: dict[int, Array], advance: Advance) -> None:
        """The whole loop on the backend's own outputs, for backends exact enough to stay on the recorded trajectory."""

        def compare(call: int, scaled: Array32, outputs: Array32) -> None:
            if call in expected:
                self.update("unet", relative_error(outputs[0], expected[call]))
            advance()

        final = free_run(self.bundle, self.backend, run, tensors, compare)
        self.update("unet", relative_error(final, tensors["quantized_latents"]))


def free_run(
    bundle: Bundle, backend: Backend, run: GoldenRun, tensors: dict[str, Array], observe: Observe | None = None
) -> Array32:
    """Final state of the loop from a golden run's recorded conditions and first state, float32 [1, C, H, W].

    Args:
        tensors: of the run, see :func:`read_golden`.
        observe: called after each call.
    """
    told = conditioner_of(bundle.manifest).conditions(tensors).inputs.values()
    return final_states(BundleArtist(bundle, backend), tuple(told), [run.seed], observe, tensors["initial_latents"])
