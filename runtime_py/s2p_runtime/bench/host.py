"""The protocol on the host: warm-up, measured pictures, the other golden runs, and a memory pass of its own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from s2p_runtime import __version__
from s2p_runtime.artist import final_states
from s2p_runtime.backends import Array32, Backend
from s2p_runtime.bench.cores import on_cores
from s2p_runtime.bench.memory_pass import memory_of_a_picture
from s2p_runtime.bench.missing import missing_reasons
from s2p_runtime.bench.periodic import Periodic
from s2p_runtime.bench.probes import Probes
from s2p_runtime.bench.statistics import summarize
from s2p_runtime.bundle import MANIFEST_NAME, Bundle, GoldenRun
from s2p_runtime.conditioning import components_of
from s2p_runtime.drawing import BundleArtist
from s2p_runtime.engines import open_backend
from s2p_runtime.errors import CheckFailed, S2PError
from s2p_runtime.files import sha256_file
from s2p_runtime.pictures import psnr_db, to_picture
from s2p_runtime.progress import Advance, Progress, Silent
from s2p_runtime.report import (
    BenchReport,
    EnergySample,
    Fidelity,
    Memory,
    Protocol,
    ThermalSample,
    Timings,
    Validity,
)
from s2p_runtime.verify import MINIMUM_LATENT_PSNR_DB, MINIMUM_PICTURE_PSNR_DB, read_golden

Picture = NDArray[np.uint8]
OnPicture = Callable[[str, Picture], None]
"""(id of a golden run, the picture drawn of it, uint8 [H, W, 3])"""

_SENSOR_INTERVAL = 1.0
_TELLING_INTERVAL = 1.0


@dataclass(frozen=True)
class HostSettings:
    """The protocol.

    Attributes:
        runs: measured pictures.
        warmup: pictures before them.
        cooldown: seconds of rest before each measured picture.
        minimum: seconds which the measured pictures together should last; below, the report calls itself too short.
        threads: of the engine; None: it chooses.
        cores: cores to run on; None: all. Linux only.
        release_chunks: load and let go of each program of a U-Net in several at every call; loading is then part of a call's time.
    """

    runs: int = 5
    warmup: int = 1
    cooldown: float = 0.0
    minimum: float = 60.0
    threads: int | None = None
    cores: tuple[int, ...] | None = None
    release_chunks: bool = False

    def check(self) -> None:
        """
        Raises:
            S2PError: a number that makes no sense.
        """
        times = (self.cooldown, self.minimum)
        if self.runs < 1 or self.warmup < 0 or not all(math.isfinite(t) and t >= 0 for t in times):
            raise S2PError("runs must be at least 1 and no count or time negative", "change `runs`, `warmup` or the times")
        if self.threads is not None and self.threads < 1:
            raise S2PError("the number of threads must be at least 1", "change `threads`", "threads")


class _Clock:
    """Milliseconds since it was made or last asked."""

    def __init__(self) -> None:
        self.last = time.perf_counter_ns()

    def lap(self) -> float:
        now = time.perf_counter_ns()
        milliseconds, self.last = (now - self.last) / 1e6, now
        return milliseconds


@dataclass(frozen=True)
class _TimedDrawing:
    """A picture with its times in milliseconds."""

    text_encoder: float
    unet_calls: tuple[float, ...]
    vae_decoder: float
    image: float
    latents: Array32
    picture: Picture
    finite: bool
    """Whether the decoder's numbers are: pixels cannot tell."""


class _PatientAdvance:
    """Tells of finished calls once a second: telling of each would be part of what is measured."""

    def __init__(self, advance: Advance) -> None:
        self._advance, self._untold, self._told_at = advance, 0, time.monotonic()

    def count(self) -> None:
        self._untold += 1
        if time.monotonic() - self._told_at >= _TELLING_INTERVAL:
            self.flush()

    def flush(self) -> None:
        for _ in range(self._untold):
            self._advance()
        self._untold, self._told_at = 0, time.monotonic()


class _TimedArtist(BundleArtist):
    """Draws golden runs with a loaded backend and times the parts."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        super().__init__(bundle, backend)
        self._calls: list[float] = []
        self._on_call: Callable[[], None] = lambda: None
        self.tokens_dropped("")  # reads the tokenizer, which is no part of a picture's time

    def predict(self, samples: Array32, call: int, *conditions: Array32) -> Array32:
        """As the bundle's artist, on the clock."""
        clock = _Clock()
        output = super().predict(samples, call, *conditions)
        self._calls.append(clock.lap())
        self._on_call()
        return output

    def draw(self, run: GoldenRun, on_call: Callable[[], None]) -> _TimedDrawing:
        """From the prompt and the seed to pixels."""
        self._calls, self._on_call = [], on_call
        whole, part = _Clock(), _Clock()
        conditions = self.conditions([run.prompt])
        text = part.lap()
        latents = final_states(self, conditions, [run.seed])
        part.lap()
        decoded = self.decode(latents)
        picture = np.ascontiguousarray(to_picture(np.nan_to_num(decoded)))
        decoder, image = part.lap(), whole.lap()
        finite = bool(np.isfinite(decoded).all())
        return _TimedDrawing(text, tuple(self._calls), decoder, image, latents, picture, finite)


def bench_host(
    bundle: Bundle,
    settings: HostSettings,
    progress: Progress | None = None,
    on_picture: OnPicture | None = None,
    probes: Probes | None = None,
) -> BenchReport:
    """Measure a bundle on this machine.

    Loads every component, draws warm-up pictures and then the measured ones of the first golden run's prompt and seed, while heat
    and power are sampled once a second, power not in the rests between; then the other golden runs once each, for fidelity; then
    one picture in a fresh process, for memory.

    Args:
        on_picture: is given the picture of each golden run.
        probes: read the machine; tests give other files than those of /proc and /sys.

    Raises:
        S2PError: bad settings, no golden run, the engine is missing or cannot run the bundle.
        CheckFailed: the final latents of a golden run are not finite.
    """
    settings.check()
    manifest = bundle.manifest
    if not manifest.golden:
        raise S2PError(f"{bundle.folder.name} has no golden run to compare with", "convert the checkpoint again")
    with on_cores(settings.cores):
        return _measure(bundle, settings, progress or Silent(), on_picture or _ignore, probes or Probes())


def _ignore(golden_id: str, picture: Picture) -> None:
    pass


def _measure(bundle: Bundle, settings: HostSettings, progress: Progress, on_picture: OnPicture, probes: Probes) -> BenchReport:
    manifest = bundle.manifest
    backend = open_backend(bundle, release_chunks=settings.release_chunks)
    backend.start(settings.threads)
    unplugged = probes.unplugged()
    state = probes.thermal(0).state
    load = _load(bundle, backend, progress)
    artist = _TimedArtist(bundle, backend)
    first, *others = manifest.golden
    resting = threading.Event()
    _draw_many(artist, first, settings.warmup, 0.0, resting, "warm-up", progress)
    thermal: list[ThermalSample] = []
    energy: list[EnergySample] = []

    def sense(seconds: float) -> None:
        thermal.append(probes.thermal(seconds))
        if resting.is_set():
            return
        sample = probes.energy(seconds)
        # What was read while a rest began may be of the rest.
        if not resting.is_set():
            energy.append(sample)

    if settings.cooldown:
        resting.set()
    with Periodic(_SENSOR_INTERVAL, sense):
        drawings = _draw_many(artist, first, settings.runs, settings.cooldown, resting, "measured pictures", progress)
    if unplugged:
        unplugged = probes.unplugged()
    fidelity = [_compare(bundle, first, drawings[0], on_picture)]
    for run in others:
        (drawing,) = _draw_many(artist, run, 1, 0.0, resting, f"golden run {run.id}", progress)
        fidelity.append(_compare(bundle, run, drawing, on_picture))
    memory, no_memory = _memory(bundle, settings, progress)

    timings = Timings(
        load=load,
        text_encoder=tuple(drawing.text_encoder for drawing in drawings),
        unet_call=tuple(drawing.unet_calls for drawing in drawings),
        vae_decoder=tuple(drawing.vae_decoder for drawing in drawings),
        image=tuple(drawing.image for drawing in drawings),
    )
    samples = {
        "text_encoder": timings.text_encoder,
        "unet_call": tuple(chain.from_iterable(timings.unet_call)),
        "vae_decoder": timings.vae_decoder,
        "image": timings.image,
    }
    summaries = {name: summarize(values) for name, values in samples.items()}
    report = BenchReport(
        harness="host",
        harness_version=__version__,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        device=probes.device(),
        bundle_name=manifest.name,
        bundle_sha256=sha256_file(bundle.folder / MANIFEST_NAME),
        target=manifest.target,
        backend={name: backend.describe(name) for name in components_of(bundle)},
        compute_units={},
        placement=(),
        protocol=Protocol(
            warmup_runs=settings.warmup,
            runs=settings.runs,
            cooldown_seconds=settings.cooldown,
            minimum_seconds=settings.minimum,
            threads=settings.threads,
        ),
        timings_ms=timings,
        summary_ms={name: summary for name, summary in summaries.items() if summary is not None},
        memory=memory,
        thermal=tuple(thermal),
        energy=tuple(energy),
        fidelity=tuple(fidelity),
        validity=Validity(
            unplugged=unplugged,
            low_power_mode_off=None,
            thermal_nominal_at_start=None if state is None else state == "nominal",
            minimum_duration_met=math.fsum(timings.image) >= settings.minimum * 1000,
            fidelity_ok=all(_is_faithful(one) for one in fidelity),
        ),
        missing={},
    )
    return report.model_copy(update={"missing": missing_reasons(report, no_memory)})


def _load(bundle: Bundle, backend: Backend, progress: Progress) -> dict[str, float]:
    milliseconds = {}
    components = components_of(bundle)
    with progress.stage("loading", len(components)) as advance:
        for component in components:
            clock = _Clock()
            backend.load(component)
            milliseconds[component] = clock.lap()
            advance()
    return milliseconds


def _draw_many(
    artist: _TimedArtist, run: GoldenRun, count: int, cooldown: float, resting: threading.Event, title: str, progress: Progress
) -> list[_TimedDrawing]:
    """Pictures, a rest before each. ``resting`` is set from the end of a picture to the beginning of the next."""
    if not count:
        return []
    drawings: list[_TimedDrawing] = []
    with progress.stage(title, count * len(artist.plan.calls)) as advance:
        patient = _PatientAdvance(advance)
        while len(drawings) < count:
            time.sleep(cooldown)
            resting.clear()
            drawings.append(artist.draw(run, patient.count))
            # The last look at the sensors comes behind the last picture, and counts for it.
            if cooldown and len(drawings) < count:
                resting.set()
            patient.flush()
    return drawings


def _compare(bundle: Bundle, run: GoldenRun, drawing: _TimedDrawing, on_picture: OnPicture) -> Fidelity:
    """A drawing against its golden run: latents by their range, pictures as 8-bit RGB."""
    tensors = read_golden(bundle, run)
    golden, picture = tensors["quantized_latents"], to_picture(tensors["image"])
    if golden.shape != drawing.latents.shape or picture.shape != drawing.picture.shape:
        raise S2PError(f"golden run {run.id} of {bundle.folder.name} has other shapes than the bundle", "convert it again")
    if not np.isfinite(drawing.latents).all():
        raise CheckFailed(
            f"the final latents of golden run {run.id} are not finite",
            "convert the checkpoint in a higher precision",
        )
    if not drawing.finite:
        raise CheckFailed(f"the picture of golden run {run.id} is not finite", "convert the checkpoint in a higher precision")
    on_picture(run.id, drawing.picture)
    return Fidelity(
        golden_id=run.id,
        latent_psnr_db=_finite(psnr_db(drawing.latents, golden)),
        latent_max_abs=float(np.abs(drawing.latents.astype(np.float64) - golden).max()),
        image_psnr_db=_finite(psnr_db(drawing.picture, picture, peak=255.0)),
        image_max_abs=float(np.abs(drawing.picture.astype(np.int16) - picture).max()),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _is_faithful(fidelity: Fidelity) -> bool:
    """The floor of ``verify`` for the latents, so that the two never disagree, and one for the picture, which the decoder makes."""
    latents, picture = fidelity.latent_psnr_db, fidelity.image_psnr_db
    right_latents = fidelity.latent_max_abs == 0 or (latents is not None and latents >= MINIMUM_LATENT_PSNR_DB)
    return right_latents and (fidelity.image_max_abs == 0 or (picture is not None and picture >= MINIMUM_PICTURE_PSNR_DB))


def _memory(bundle: Bundle, settings: HostSettings, progress: Progress) -> tuple[Memory, str | None]:
    """Memory, and the reason where it could not be measured; the times are worth reporting without it."""
    with progress.stage("memory pass", 1) as advance:
        try:
            memory, reason = memory_of_a_picture(bundle.folder, settings.threads, settings.release_chunks), None
        except S2PError as error:
            memory, reason = Memory(baseline_bytes=None, peak_bytes=None, method="none", samples=()), str(error)
        advance()
    return memory, reason
