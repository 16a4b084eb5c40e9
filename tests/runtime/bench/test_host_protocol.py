"""The protocol on a backend that replays a golden run, with a clock and sensors that the test moves."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from s2p_runtime.bench import HostSettings, Probes, SystemFiles, bench_host, host
from s2p_runtime.bench.memory_pass import measure_memory
from s2p_runtime.bundle import Bundle, BundleManifest, open_bundle
from s2p_runtime.errors import CheckFailed, S2PError
from s2p_runtime.files import sha256_file
from s2p_runtime.progress import Silent
from s2p_runtime.report import BenchReport, EnergySample, Memory, ThermalSample
from s2p_runtime.tensors import read_tensors

FIXTURE = Path(__file__).parents[2] / "fixtures" / "ancestral.s2pmobile"
PIXEL = Path(__file__).parents[3] / "android_harness" / "tests" / "fixtures" / "sysfs-pixel"
LOAD, TEXT, CALL, DECODE = 100.0, 3.0, 7.0, 11.0
"""Milliseconds that the clock moves in each part; call i of a picture takes CALL + i."""


class Clock:
    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def perf_counter_ns(self) -> int:
        return round(self.now * 1e6)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Replay:
    """Answers with the golden run's tensors."""

    def __init__(self, bundle: Bundle, clock: Clock) -> None:
        self.tensors, self.clock = read_tensors(bundle.path(bundle.manifest.golden[0].path)), clock
        self.did: list[str] = []
        self.threads: int | None = None
        self.error = 0.0

    def start(self, threads: int | None = None) -> None:
        self.did.append("start")
        self.threads = threads

    def load(self, component: str) -> None:
        self.did.append(f"load {component}")
        self.clock.now += LOAD

    def describe(self, component: str) -> str:
        return f"replayed {component}"

    def run(self, component: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.clock.now += TEXT
        return {"last_hidden_state": self.tensors["text_embeddings"][:1]}

    def predict(self, sample: np.ndarray, step: int, conditions: dict[str, np.ndarray]) -> np.ndarray:
        self.did.append("call")
        self.clock.now += CALL + step
        return self.tensors["noise_pred"][step] + np.float32(self.error)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        self.clock.now += DECODE
        return self.tensors["image"]


@pytest.fixture()
def bundle() -> Bundle:
    return open_bundle(FIXTURE)


@pytest.fixture()
def replay(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replay]:
    clock = Clock()
    backend = Replay(bundle, clock)
    monkeypatch.setattr(host, "open_backend", lambda given, **_: backend)
    names = {"perf_counter_ns": clock.perf_counter_ns, "sleep": clock.sleep, "monotonic": time.monotonic}
    monkeypatch.setattr(host, "time", SimpleNamespace(**names))
    monkeypatch.setattr(
        host,
        "memory_of_a_picture",
        lambda folder, threads, *_, **__: Memory(baseline_bytes=5, peak_bytes=9, method="told", samples=((0.0, 5),)),
    )
    before = threading.active_count()
    yield backend
    assert threading.active_count() == before, "no sampling thread is left"


def pixel() -> Probes:
    return Probes(SystemFiles(PIXEL))


def test_times_are_those_of_the_parts(bundle: Bundle, replay: Replay) -> None:
    pictures: dict[str, np.ndarray] = {}
    settings = HostSettings(runs=3, warmup=2, cooldown=1.5, minimum=0.1, threads=4)
    report = bench_host(bundle, settings, on_picture=pictures.__setitem__, probes=pixel())
    calls = len(bundle.manifest.plan.calls)
    timings = report.timings_ms
    assert timings.load == {"text_encoder": LOAD, "unet": LOAD, "vae_decoder": LOAD}
    # No guidance: one text.
    assert timings.text_encoder == (TEXT,) * 3 and timings.vae_decoder == (DECODE,) * 3
    assert timings.unet_call == (tuple(CALL + i for i in range(calls)),) * 3
    assert timings.image == (TEXT + DECODE + sum(CALL + i for i in range(calls)),) * 3
    assert replay.did == ["start", "load text_encoder", "load unet", "load vae_decoder", *["call"] * (calls * 5)]
    assert replay.clock.slept == [0.0] * 2 + [1.5] * 3 and replay.threads == 4
    assert {name: summary.count for name, summary in report.summary_ms.items()} == {
        "text_encoder": 3, "unet_call": 3 * calls, "vae_decoder": 3, "image": 3,
    }  # fmt: skip
    # 18 calls of 7..12 ms: ranks 9, 17 and 18.
    ordered = np.sort(np.concatenate([np.array(one) for one in timings.unet_call]))
    summary = report.summary_ms["unet_call"]
    assert [summary.p50, summary.p90, summary.p99] == [
        np.percentile(ordered, percent, method="inverted_cdf") for percent in (50, 90, 99)
    ]
    assert report.harness == "host" and report.backend["unet"] == "replayed unet"
    assert report.bundle_sha256 == sha256_file(FIXTURE / "manifest.json")
    assert report.protocol.model_dump() == {
        "warmup_runs": 2, "runs": 3, "cooldown_seconds": 1.5, "minimum_seconds": 0.1, "threads": 4,
    }  # fmt: skip
    # The replay ends in the golden latents bit for bit, as every harness must.
    (fidelity,) = report.fidelity
    assert fidelity.latent_max_abs == 0 and fidelity.latent_psnr_db is None and fidelity.image_max_abs == 0
    assert report.validity.fidelity_ok and report.validity.minimum_duration_met
    image = read_tensors(bundle.path(bundle.manifest.golden[0].path))["image"][0]
    expected = np.rint(np.clip(image / 2 + 0.5, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    np.testing.assert_array_equal(pictures[bundle.manifest.golden[0].id], expected)
    assert BenchReport.model_validate_json(report.model_dump_json(), strict=True) == report


def test_sensors_and_reasons(bundle: Bundle, replay: Replay, tmp_path: Path) -> None:
    report = bench_host(bundle, HostSettings(runs=1, warmup=0), probes=pixel())
    # At once and at the end.
    assert len(report.thermal) == len(report.energy) == 2
    assert report.thermal[0].celsius["BIG"] == 41 and report.energy[0].milliwatts == 3250
    assert report.validity.unplugged is True and report.validity.minimum_duration_met is False
    absent = {"compute_units", "placement",
              "device.soc", "protocol.threads", "thermal.state", "thermal.headroom", "validity.low_power_mode_off",
              "validity.thermal_nominal_at_start", "fidelity.0.latent_psnr_db", "fidelity.0.image_psnr_db"}  # fmt: skip
    assert set(report.missing) == absent
    bare = bench_host(bundle, HostSettings(runs=1, warmup=0, threads=1), probes=Probes(SystemFiles(tmp_path)))
    gone = {"energy.milliwatts", "energy.battery_level", "thermal.celsius", "validity.unplugged", "device.memory_bytes"}
    assert set(bare.missing) == absent - {"protocol.threads"} | gone
    assert all(reason for reason in bare.missing.values())


class WorkingProbes(Probes):
    """A machine that draws 9 W at work and 1 W at rest."""

    def __init__(self) -> None:
        super().__init__(SystemFiles(PIXEL))
        self.works, self.looked = False, threading.Semaphore(0)

    def thermal(self, seconds: float) -> ThermalSample:
        self.looked.release()
        return super().thermal(seconds)

    def energy(self, seconds: float) -> EnergySample:
        return EnergySample(seconds=seconds, milliwatts=9000.0 if self.works else 1000.0, battery_level=None)


def test_power_is_that_of_pictures_and_not_of_rests(bundle: Bundle, replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    probes = WorkingProbes()

    def rest(seconds: float) -> None:
        replay.clock.slept.append(seconds)
        probes.works = False
        # Whoever reads power in a rest has done so when heat was looked at twice more.
        for _ in range(3):
            assert probes.looked.acquire(timeout=60)
        probes.works = True

    monkeypatch.setattr(host, "_SENSOR_INTERVAL", 0.001)
    monkeypatch.setattr(host.time, "sleep", rest)
    report = bench_host(bundle, HostSettings(runs=2, warmup=0, cooldown=5.0), probes=probes)
    assert replay.clock.slept == [5.0, 5.0]
    assert len(report.thermal) >= 6 and report.energy
    assert {sample.milliwatts for sample in report.energy} == {9000.0}


def test_another_picture_is_not_ok(bundle: Bundle, replay: Replay) -> None:
    replay.error = 10.0
    report = bench_host(bundle, HostSettings(runs=1, warmup=0), probes=pixel())
    tensors = read_tensors(bundle.path(bundle.manifest.golden[0].path))
    assert not report.validity.fidelity_ok
    (fidelity,) = report.fidelity
    # Never further from the truth than the mean error of the latents: PSNR = 20 log10(range / rms).
    span = np.ptp(tensors["quantized_latents"].astype(np.float64))
    assert fidelity.latent_psnr_db is not None
    assert fidelity.latent_psnr_db >= 20 * np.log10(span / fidelity.latent_max_abs) - 1e-9


def test_latents_that_are_not_finite_end_it(bundle: Bundle, replay: Replay) -> None:
    replay.error = float("nan")
    with pytest.raises(CheckFailed, match="are not finite"):
        bench_host(bundle, HostSettings(runs=1, warmup=0), probes=pixel())


def test_right_latents_and_a_wrong_decoder_are_not_ok(bundle: Bundle, replay: Replay) -> None:
    replay.tensors = {**replay.tensors, "image": -replay.tensors["image"]}
    report = bench_host(bundle, HostSettings(runs=1, warmup=0), probes=pixel())
    (fidelity,) = report.fidelity
    assert fidelity.latent_max_abs == 0 and not report.validity.fidelity_ok


def test_pictures_that_are_not_finite_end_it(bundle: Bundle, replay: Replay) -> None:
    replay.tensors = {**replay.tensors, "image": np.full_like(replay.tensors["image"], np.nan)}
    with pytest.raises(CheckFailed, match="the picture of golden run only is not finite"):
        bench_host(bundle, HostSettings(runs=1, warmup=0), probes=pixel())


def test_no_memory_is_no_failure(bundle: Bundle, replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixture's programs are dummies, so that the process which should draw with them fails."""
    monkeypatch.undo()
    monkeypatch.setattr(host, "open_backend", lambda given, **_: replay)
    report = bench_host(bundle, HostSettings(runs=1, warmup=0), Silent(), probes=pixel())
    assert report.memory.peak_bytes is None and report.memory.samples == ()
    for figure in ("baseline_bytes", "peak_bytes", "samples"):
        assert report.missing[f"memory.{figure}"].startswith("the memory pass failed (")


def test_memory_of_a_process_and_where_there_is_no_proc(bundle: Bundle, tmp_path: Path) -> None:
    replay = Replay(bundle, Clock())
    copy = Path(shutil.copytree(PIXEL, tmp_path / "pixel"))
    (copy / "proc/self/clear_refs").write_text("")
    memory = measure_memory(bundle, replay, 2, Probes(SystemFiles(copy)))
    assert (copy / "proc/self/clear_refs").read_text() == "5", "the high-water mark is set back, see proc(5)"
    assert (memory.baseline_bytes, memory.peak_bytes) == (20480 * 1024, 130048 * 1024)
    assert memory.own_launch
    assert {value for _, value in memory.samples} == {18432 * 1024} and len(memory.samples) >= 2
    assert replay.did[0] == "start" and replay.did[1:4] == ["load text_encoder", "load unet", "load vae_decoder"]
    memory = measure_memory(bundle, replay, None, Probes(SystemFiles(tmp_path / "nothing")))
    assert memory.baseline_bytes is None and memory.samples == () and "getrusage" in memory.method
    assert memory.peak_bytes is not None and memory.peak_bytes > 1 << 20


@pytest.mark.parametrize(
    "settings",
    [HostSettings(runs=0), HostSettings(warmup=-1), HostSettings(cooldown=-1.0), HostSettings(minimum=float("nan")),
     HostSettings(threads=0)],
)  # fmt: skip
def test_protocols_that_make_no_sense(bundle: Bundle, settings: HostSettings) -> None:
    with pytest.raises(S2PError, match="; change "):
        bench_host(bundle, settings)


def test_bundle_without_golden_runs(bundle: Bundle) -> None:
    manifest: BundleManifest = bundle.manifest.model_copy(update={"golden": ()})
    with pytest.raises(S2PError, match="no golden run"):
        bench_host(Bundle(bundle.folder, manifest), HostSettings())
