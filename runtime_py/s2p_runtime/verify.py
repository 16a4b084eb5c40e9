"""Does a bundle compute what it was built to compute? Every component against the recorded golden runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from s2p_runtime.pictures import from_picture, psnr_db, relative_error, to_picture
from s2p_runtime.plan import ImageStart, SamplingPlan
from s2p_runtime.progress import Advance, Progress, Silent
from s2p_runtime.tensors import read_tensors
from s2p_runtime.walker import Walker, guide_runs, picture_latents

Array = NDArray[Any]

SAMPLER_TOLERANCE = 1e-6
"""The plan's rows over recorded outputs: sums in double rounded to float32 on both sides."""

RECORDED_TOLERANCE = 0.1
"""A recorded call against the same call of the program. Both round their sums, so that some activations fall on the next integer:
torch in float32 is up to 3.9e-2 away from torch in float64 over the calls of the demo model's golden run, and two such differences
add up."""

MINIMUM_LATENT_PSNR_DB = 30.0
"""Final latents as the program's own precision gives them against the golden ones: below this the picture is another one. The
harnesses of the devices use the same number; docs/formats.md says why."""

MINIMUM_PICTURE_PSNR_DB = 20.0
"""Pictures against the golden ones, 8-bit with 255 as the peak: below this the decoder is a wrong one. docs/formats.md says why."""


class ComponentCheck(Contract):
    """Worst relative error of a component over all golden runs."""

    max_relative_error: float | None
    tolerance: float
    ok: bool


class GoldenCheck(Contract):
    """Final latents in the program's own precision; PSNR null when they are equal, or when the loop was not run."""

    id: str
    loop: bool
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


FROM_PICTURE_TENSORS = ("moments", "from_picture_step", "from_picture_latents")
"""Of the first run, where the bundle starts from pictures."""


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


def verify(bundle: Bundle, progress: Progress | None = None, full: bool = False) -> Verification:
    """Compare the programs with the recorded golden runs.

    Of every run: what encodes its prompt, the sampler's rows over the recorded outputs, and the first, the middle and the last U-Net
    call at their recorded states. Of the first run: the call that was computed exactly, in float64 where the host evaluates exactly,
    and the picture. Picture sizes beside the bundle's own are checked at their recorded calls.

    Args:
        full: every recorded call and picture instead, and the whole loop of each run, whose end gives a PSNR.

    Raises:
        S2PError: a golden run is unreadable, or a component cannot run.
    """
    host, listener = host_of(bundle), progress or Silent()
    checks = _Checks(bundle, host)
    golden = []
    for index, run in enumerate(bundle.manifest.golden):
        tensors = read_golden(bundle, run)
        recorded = [int(call) for call in tensors["noise_pred_calls"]]
        chosen = recorded if full else spread(recorded)
        with listener.stage(f"golden run {run.id}", len(chosen)) as advance:
            checks.prompt(tensors)
            checks.calls(run, tensors, chosen, advance)
        if index == 0:
            with listener.stage("exact call and picture", 2) as advance:
                checks.exact(run, tensors)
                advance()
                checks.picture(tensors, "vae_decoder")
                checks.from_picture(run, tensors)
                advance()
        elif full:
            checks.picture(tensors, "recorded calls")
        golden.append(_loop(bundle, host, run, tensors, listener) if full else _not_run(run))
    for size in bundle.manifest.sizes[1:]:
        with listener.stage(f"size {size.title}", 1) as advance:
            for name, error in size_errors(bundle, checks.backend, size).items():
                checks.update(name, error)
            advance()
    components, altered = checks.results(), host.altered_constants(bundle)
    ok = bool(golden) and not altered and all(c.ok for c in components.values()) and all(g.ok for g in golden)
    return Verification(ok=ok, components=components, golden=tuple(golden), altered_constants=altered)


def spread(calls: Sequence[int]) -> list[int]:
    """The first, the middle and the last."""
    return sorted({calls[0], calls[len(calls) // 2], calls[-1]}) if calls else []


def _not_run(run: GoldenRun) -> GoldenCheck:
    return GoldenCheck(id=run.id, loop=False, latent_psnr_db=None, ok=True)


def _loop(bundle: Bundle, host: Host, run: GoldenRun, tensors: dict[str, Array], listener: Progress) -> GoldenCheck:
    """The whole loop in the program's own precision."""
    backend = host.open(bundle, "declared")
    with listener.stage(f"loop of golden run {run.id}", len(bundle.manifest.plan.calls)) as advance:
        final = free_run(bundle, backend, run, tensors, lambda *_: advance())
    psnr = psnr_db(final, tensors["quantized_latents"])
    ok = psnr is None or psnr >= MINIMUM_LATENT_PSNR_DB
    return GoldenCheck(id=run.id, loop=True, latent_psnr_db=_finite(psnr), ok=ok)


def recorded_states(
    plan: SamplingPlan,
    guidance: float,
    seed: int,
    tensors: Mapping[str, Array],
    calls: Sequence[int],
    begun: tuple[ImageStart, Array32] | None = None,
) -> dict[int, Array32]:
    """Scaled states [1, C, H, W] at some calls of a run whose every output is recorded; at T, the number of calls, the final state.

    Args:
        tensors: of the run; ``initial_latents`` and ``noise_pred`` are looked at.
        begun: of a run from a picture over the same outputs, its start and the picture's latents.
    """
    if begun is None:
        walker = Walker(plan, tensors["initial_latents"], [seed])
    else:
        walker = Walker(plan, picture_latents(*begun, seed), [seed], begun[0])
    states = {}
    for call in sorted(set(calls)):
        walker.run(lambda _, index: guide_runs(tensors["noise_pred"][index][None], guidance), until=call)
        states[call] = walker.state if walker.finished else walker.scaled
    return states


def exact_errors(bundle: Bundle, backend: Backend, run: GoldenRun) -> Iterator[float]:
    """Relative errors of the U-Net at the calls of a run that were computed exactly."""
    manifest, tensors = bundle.manifest, read_golden(bundle, run)
    if "exact_calls" not in tensors:
        return
    conditions = conditioner_of(manifest).conditions(tensors)
    calls = [int(call) for call in tensors["exact_calls"]]
    states = recorded_states(manifest.plan, manifest.guidance, run.seed, tensors, calls)
    for call, expected in zip(calls, tensors["exact_noise_pred"], strict=True):
        found = backend.predict(np.repeat(states[call], conditions.branches, axis=0), call, conditions.inputs)
        # The last branch alone is recorded.
        yield relative_error(found[-1:], expected)


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
        names = (*components_of(bundle), *(("vae_encoder",) if bundle.manifest.image_starts is not None else ()))
        self._tolerances = {name: host.tolerance(bundle.manifest, name) for name in names}
        self._tolerances |= {"recorded calls": RECORDED_TOLERANCE, "sampler": SAMPLER_TOLERANCE}
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

    def prompt(self, tensors: dict[str, Array]) -> None:
        """What encodes prompts."""
        for name, error in self.conditioner.errors(self.backend.run, tensors):
            self.update(name, error)

    def calls(self, run: GoldenRun, tensors: dict[str, Array], chosen: Sequence[int], advance: Advance) -> None:
        """Some U-Net calls at their recorded states; the rows over the recorded outputs give those states and the recorded end."""
        plan, guidance = self.manifest.plan, self.manifest.guidance
        total, conditions = len(plan.calls), self.conditioner.conditions(tensors)
        states = recorded_states(plan, guidance, run.seed, tensors, [*chosen, total])
        self.update("sampler", relative_error(states[total], tensors["quantized_latents"]))
        for call in chosen:
            found = self.backend.predict(np.repeat(states[call], conditions.branches, axis=0), call, conditions.inputs)
            self.update("recorded calls", relative_error(found, tensors["noise_pred"][call]))
            advance()

    def exact(self, run: GoldenRun, tensors: dict[str, Array]) -> None:
        """The U-Net at the calls that were computed exactly."""
        for error in exact_errors(self.bundle, self.backend, run):
            self.update("unet", error)

    def picture(self, tensors: dict[str, Array], component: str) -> None:
        """The decoder on the recorded final state, as an error of a component."""
        image = decode_latents(self.bundle, self.backend, tensors["quantized_latents"])
        self.update(component, relative_error(image, tensors["image"]))

    def from_picture(self, run: GoldenRun, tensors: dict[str, Array]) -> None:
        """Of a bundle that starts from pictures, the encoder on the recorded picture, and the rows from there."""
        starts = self.manifest.image_starts
        if starts is None:
            return
        for name in FROM_PICTURE_TENSORS:
            if name not in tensors:
                raise S2PError(f"golden run {run.id} of {self.bundle.folder.name} lacks {name}", "convert the checkpoint again")
        moments = self.backend.encode(from_picture(to_picture(tensors["image"])))
        self.update("vae_encoder", relative_error(moments, tensors["moments"]))
        start = starts[int(tensors["from_picture_step"][0])]
        encoded, plan = self.manifest.latents.encoded(tensors["moments"]), self.manifest.plan
        total = len(plan.calls)
        end = recorded_states(plan, self.manifest.guidance, run.seed, tensors, [total], (start, encoded))[total]
        self.update("sampler", relative_error(end, tensors["from_picture_latents"]))


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
