"""The adb driver and `s2p-mobile bench --device android` from end to end, with a stand-in adb that runs the host's build of the
runner in a sandbox folder."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from s2p_mobile.cli.app import as_options, run
from s2p_mobile.devices import AndroidSettings, android, bench_android
from s2p_mobile.devices.adb import Adb
from s2p_runtime.bundle import Bundle, BundleManifest, file_entries
from s2p_runtime.contract import read_contract, write_contract
from s2p_runtime.errors import CheckFailed, S2PError
from s2p_runtime.progress import ProgressEvent, Told
from s2p_runtime.report import BenchReport
from s2p_runtime.tensors import read_tensors, write_tensors

BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: {usb}
  Wireless powered: false
  status: 3
  level: 83
  scale: 100
  voltage: 4000
  temperature: {tenths}
  current now: -500
"""
COOL = BATTERY.format(usb="false", tenths=250)
SERVICES = {
    "dumpsys battery": COOL,
    "dumpsys thermalservice": "IsStatusOverride: false\nThermal Status: 0\n",
    "settings get global low_power": "0\n",
}
NETWORK_SERIAL = "192.0.2.7:5555"


class Phone:
    """The stand-in's folder, and the driver called on it."""

    def __init__(self, folder: Path, runner: Path, bundle: Path) -> None:
        self.folder, self.runner, self.bundle = folder, runner, bundle
        self.adb = folder / "adb"
        self.adb.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("standin_adb.py")}" "$@"\n')
        self.adb.chmod(0o755)
        self.progress: list[ProgressEvent] = []
        self.configure()

    def configure(self, **changes: Any) -> None:
        config = {"devices": {NETWORK_SERIAL: "device"}, "services": SERVICES, **changes}
        (self.folder / "config.json").write_text(json.dumps(config))

    def bench(self, serial: str | None = None, **settings: Any) -> BenchReport:
        defaults = {"adb": self.adb, "runner": self.runner, "poll_seconds": 0.01, "wait_seconds": 5.0, "minimum_seconds": 0.0}
        return bench_android(
            self.bundle,
            serial,
            runs=2,
            warmup=1,
            cooldown=0.0,
            threads=1,
            cores="0",
            out=self.folder / "report.json",
            progress=Told(self.progress.append),
            settings=AndroidSettings(**{**defaults, **settings}),
        )

    def calls(self, verb: str) -> list[list[str]]:
        lines = (self.folder / "log.txt").read_text().splitlines()
        return [call for call in map(json.loads, lines) if len(call) > 2 and call[2] == verb]

    @property
    def remote(self) -> Path:
        return self.folder / "device" / "s2p-mobile"


@pytest.fixture
def phone(runner_folder: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    monkeypatch.setenv("S2P_STANDIN", str(tmp_path))
    return Phone(tmp_path, runner_folder / "s2p-bench", tiny_bundle.folder)


def test_measures_and_brings_the_report_back(phone: Phone) -> None:
    report = phone.bench()
    assert read_contract(phone.folder / "report.json", BenchReport, "s2p-report", 2) == report
    assert report.bundle_name == "tiny" and report.protocol.runs == 2 and report.protocol.threads == 1
    assert report.validity.fidelity_ok and report.validity.unplugged and report.validity.low_power_mode_off
    assert report.validity.thermal_nominal_at_start
    assert not {"validity.unplugged", "validity.low_power_mode_off"} & set(report.missing)
    recorded = read_tensors(phone.bundle / "golden" / "first.safetensors")["image"][0]
    picture = np.asarray(Image.open(phone.folder / "report-first.png"), float)
    # Other kernels in float32 move a value to the next grey level at most.
    assert np.abs(picture - np.clip(recorded / 2 + 0.5, 0, 1).transpose(1, 2, 0) * 255).max() <= 1.5
    stages = {event.stage for event in phone.progress}
    assert {"copying", "loading", "warm-up", "measured pictures", "memory pass"} <= stages
    pictures = [(event.done, event.total) for event in phone.progress if event.stage == "measured pictures"]
    assert pictures == [(0, 2), (1, 2), (2, 2)]
    # Copying may have warmed it: the runner waits, too, as long as the driver would.
    (started,) = (call[3] for call in phone.calls("shell") if "s2p-bench " in call[3] and "exec" in call[3])
    assert "--cool 5.0" in started


def test_power_comes_from_the_battery_service_where_the_runner_sees_none(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner gets an empty system root, so that it finds no sensors, whatever this machine has. Only what is drawn while pictures
    are measured counts: the phone is told to idle at another power before and after."""
    monkeypatch.setattr(android, "_POWER_SECONDS", 0.0)
    (phone.folder / "empty").mkdir()
    script = phone.folder / "blind-runner"
    script.write_text(f'#!/bin/sh\nexec "{phone.runner}" "$@" --system-root "{phone.folder}/empty"\n')
    phone.runner = script
    # Asked: until it is ready, before, after the first of two pictures, after.
    idle, busy = COOL.replace("-500", "-20"), COOL
    phone.configure(services={**SERVICES, "dumpsys battery": [idle, idle, busy, idle]})
    report = phone.bench()
    assert [(sample.battery_level, sample.milliwatts) for sample in report.energy] == [(0.83, 2000.0)]  # 500 mA at 4 V
    assert report.memory.peak_bytes is None and "memory.peak_bytes" in report.missing
    assert not {"energy.battery_level", "energy.milliwatts"} & set(report.missing)


def test_a_phone_that_rests_behind_a_picture_is_looked_at_while_it_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(android, "_POWER_SECONDS", 0.0)
    now = android.DeviceState(False, 0.8, 25.0, 20.0, 0, False)
    monkeypatch.setattr(android, "read_state", lambda adb: now)
    told = [("loaded", 3, 3), ("call", 0, 6), ("image", 0, 2), ("call", 3, 6), ("image", 1, 2), ("call", 1, 6)]
    # With a rest: both calls, and nothing behind the last picture. Without: the first picture's end, too.
    for rests, expected in ((True, [500.0, 500.0]), (False, [500.0, 20.0, 500.0])):
        power = android._PowerReadings(cast(Adb, None), rests)
        for event, index, total in told:
            now = android.DeviceState(False, 0.8, 25.0, 500.0 if event == "call" else 20.0, 0, False)
            power.hear(event, index, total)
        assert [sample.milliwatts for sample in power.samples] == expected


def test_power_in_micro_and_milliamperes() -> None:
    for current in (-812_500, 812_500, 812.5, -812.5):
        assert android.milliwatts(current, 4000) == 3250.0
    assert android.milliwatts(20_000, 4000) == 80.0 and android.milliwatts(19_999, 4000) == 79_996.0


def test_leaves_only_the_files_for_the_next_run_and_copies_only_what_changed(phone: Phone) -> None:
    phone.bench()
    assert sorted(path.name for path in phone.remote.iterdir()) == ["bundles", "s2p-bench"]
    pushed = len(phone.calls("push"))
    assert pushed == len(list(phone.bundle.rglob("*.*"))) + 1
    phone.bench()
    assert len(phone.calls("push")) == pushed
    damaged = next(phone.remote.rglob("unet.pte"))
    damaged.write_bytes(b"damaged")
    assert phone.bench().validity.fidelity_ok
    assert [Path(call[3]).name for call in phone.calls("push")[pushed:]] == ["unet.pte"]


def test_leaves_nothing_when_asked_to(phone: Phone) -> None:
    phone.bench(keep_files=False)
    assert not phone.remote.exists()


def test_waits_until_the_device_is_cool(phone: Phone) -> None:
    hot = BATTERY.format(usb="false", tenths=391)
    phone.configure(services={**SERVICES, "dumpsys battery": [hot, hot, COOL]})
    phone.bench()
    assert phone.progress[0].stage == "waiting for the device"
    assert phone.calls("shell").count(phone.calls("shell")[0]) >= 3, "the battery is looked at until it is cool"


def test_records_that_the_device_was_charged_when_that_is_allowed(phone: Phone) -> None:
    phone.configure(services={**SERVICES, "dumpsys battery": BATTERY.format(usb="true", tenths=250)})
    report = phone.bench(allow_charging=True)
    assert report.validity.unplugged is False
    assert all(sample.milliwatts is None for sample in report.energy)


def test_a_silent_device_leaves_null_and_a_reason(phone: Phone) -> None:
    phone.configure(services={})
    report = phone.bench()
    assert report.validity.low_power_mode_off is None
    assert "validity.low_power_mode_off" in report.missing


Change = Callable[[Phone], None]
CHARGED = {**SERVICES, "dumpsys battery": BATTERY.format(usb="true", tenths=250)}
HOT = {**SERVICES, "dumpsys battery": BATTERY.format(usb="false", tenths=402)}
THROTTLED = {**SERVICES, "dumpsys thermalservice": "Thermal Status: 2\n"}

FAILURES: dict[str, tuple[dict[str, Any], dict[str, Any], type[S2PError], str]] = {
    "no device": ({"devices": {}}, {}, S2PError, "no Android device is connected; switch on USB debugging"),
    "several": ({"devices": {"A1": "device", "B2": "device"}}, {}, S2PError, "A1, B2); choose with --device android:SERIAL"),
    "another": ({}, {"serial": "C3"}, S2PError, "no device C3 is connected; there is 192.0.2.7:5555"),
    "unauthorized": ({"devices": {"A1": "unauthorized"}}, {}, S2PError, "unlock it and accept the question"),
    "offline": ({"devices": {"A1": "offline"}}, {}, S2PError, "device A1 is offline; reconnect it"),
    "lost": (
        {"lost_at": '"image"'},
        {},
        S2PError,
        "went away (adb: device '192.0.2.7:5555' not found); reconnect it and run again",
    ),
    "disk full": ({"disk_full": True}, {}, S2PError, "no space left on device 192.0.2.7:5555 for "),
    "killed": ({"killed_at": '"warmup"'}, {}, CheckFailed, "killed on the device, most likely because memory ran out; close"),
    "hot": ({"services": HOT}, {"wait_seconds": 0.05}, CheckFailed, "its battery has 40 C, above 33 C; let it rest"),
    "throttled": ({"services": THROTTLED}, {"wait_seconds": 0.05}, CheckFailed, "throttled (thermal status 2)"),
    "charged": ({"services": CHARGED}, {"wait_seconds": 0.05}, CheckFailed, "it is being charged; let it rest unplugged"),
    "cable": ({"services": CHARGED, "devices": {"A1": "device"}}, {}, CheckFailed, "adb over Wi-Fi"),
    "no runner": (
        {},
        {"runner": Path("/nowhere/s2p-bench")},
        S2PError,
        "no Android runner at /nowhere/s2p-bench; build it as ",
    ),
    "no adb": ({}, {"adb": "/nowhere/adb"}, S2PError, "install Android's platform-tools and put adb on PATH"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_says_what_to_do(phone: Phone, name: str) -> None:
    config, arguments, kind, message = FAILURES[name]
    phone.configure(**config)
    with pytest.raises(S2PError) as caught:
        phone.bench(**arguments)
    assert type(caught.value) is kind
    assert message in as_options(str(caught.value)) and "\n" not in str(caught.value)
    assert not (phone.folder / "report.json").exists()


@pytest.mark.parametrize("name", ["killed", "lost"])
def test_runs_again_after_a_failure(phone: Phone, name: str) -> None:
    phone.configure(**FAILURES[name][0])
    with pytest.raises(S2PError):
        phone.bench()
    (phone.folder / "lost").unlink(missing_ok=True)
    pushed = len(phone.calls("push"))
    phone.configure()
    assert phone.bench().validity.fidelity_ok
    assert len(phone.calls("push")) == pushed


def test_an_interrupt_stops_the_runner_on_the_device(phone: Phone) -> None:
    def interrupt(event: ProgressEvent) -> None:
        if event.stage == "measured pictures" and event.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench_android(
            phone.bundle, None, 10_000, 0, 0.0, 1, None, phone.folder / "report.json", Told(interrupt),
            AndroidSettings(adb=phone.adb, runner=phone.runner, minimum_seconds=0.0),
        )  # fmt: skip
    last = phone.calls("shell")[-1][3]
    assert "kill -9" in last
    assert sorted(path.name for path in phone.remote.iterdir()) == ["bundles", "s2p-bench"]


def test_refuses_a_bundle_for_another_target(phone: Phone) -> None:
    phone.bundle = Path(__file__).resolve().parents[1] / "fixtures" / "replay.s2pmobile"
    with pytest.raises(S2PError, match="is for coreml; convert with s2p-mobile convert `target=executorch`"):
        phone.bench()


def test_refuses_a_bundle_for_an_npu(phone: Phone, tmp_path: Path, compile_for_chips: Callable[..., Path]) -> None:
    phone.bundle = compile_for_chips(phone.bundle, tmp_path / "npu.s2pmobile")
    with pytest.raises(S2PError) as caught:
        phone.bench()
    assert as_options(str(caught.value)) == (
        "npu.s2pmobile is for the NPU of SM8650, SM8750, whose engine the runner does not bring; measure it with --device "
        "android-app, or convert with --backend xnnpack to measure the processor"
    )
    assert not (phone.folder / "log.txt").exists(), "nothing was asked of the phone"


def test_a_runner_without_an_engine_says_so(phone: Phone) -> None:
    """The runner's own one-line error comes through adb unchanged."""
    script = phone.folder / "refusing-runner"
    script.write_text('#!/bin/sh\necho "error: no golden run; convert again" >&2\nexit 2\n')
    phone.runner = script
    with pytest.raises(S2PError, match=r"^no golden run; convert again$"):
        phone.bench()


def test_bundles_do_not_mix(phone: Phone, tmp_path: Path) -> None:
    """Another bundle goes to a folder of its own, named by its manifest."""
    phone.bench()
    other = tmp_path / "other.s2pmobile"
    shutil.copytree(phone.bundle, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["name"] = "other"
    (other / "manifest.json").write_text(json.dumps(manifest))
    phone.bundle = other
    assert phone.bench().bundle_name == "other"
    assert len(list((phone.remote / "bundles").iterdir())) == 2


@pytest.fixture
def command(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run ``s2p-mobile bench`` on the phone, which is found as for a user: adb on PATH, the runner named in the environment."""
    monkeypatch.setenv("PATH", f"{phone.folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("S2P_ANDROID_RUNNER", str(phone.runner))
    options = ["--runs", "1", "--warmup", "1", "--minimum", "0", "--threads", "1", "--out", str(phone.folder / "report.json")]

    def bench(bundle: Path, *more: str) -> int:
        return run(["bench", str(bundle), "--device", "android", *options, *more])

    return bench


def test_the_command_measures_the_demo_model(
    phone: Phone, demo_bundle: Bundle, command: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(demo_bundle.folder, "--device", f"android:{NETWORK_SERIAL}", "--cores", "0") == 0
    report = read_contract(phone.folder / "report.json", BenchReport, "s2p-report", 2)
    assert report.validity.fidelity_ok and report.bundle_name == demo_bundle.manifest.name
    assert "report.json; next: s2p-mobile report" in capfd.readouterr().out
    for golden in demo_bundle.manifest.golden:
        assert Image.open(phone.folder / f"report-{golden.id}.png").size == (64, 64)


def test_the_command_fails_when_another_picture_is_drawn(
    phone: Phone, tiny_bundle: Bundle, command: Callable[..., int]
) -> None:
    """Status 1, and the report is there to look at: the bundle's golden latents are another picture's."""
    other = phone.folder / "other.s2pmobile"
    shutil.copytree(tiny_bundle.folder, other)
    golden = other / "golden" / "first.safetensors"
    tensors = read_tensors(golden)
    golden.unlink()
    write_tensors(golden, {**tensors, "quantized_latents": -tensors["quantized_latents"]})
    manifest = read_contract(other / "manifest.json", BundleManifest, "s2p-bundle", 1)
    (other / "manifest.json").unlink()
    write_contract(other / "manifest.json", manifest.model_copy(update={"files": file_entries(other)}))
    assert command(other) == 1
    assert not read_contract(phone.folder / "report.json", BenchReport, "s2p-report", 2).validity.fidelity_ok


STATUSES = {"no device": 2, "several": 2, "another": 2, "offline": 2, "lost": 2, "disk full": 2, "killed": 1}


@pytest.mark.parametrize("name", STATUSES)
def test_the_command_turns_a_failure_into_a_status_and_a_line(
    phone: Phone, command: Callable[..., int], capfd: pytest.CaptureFixture[str], name: str
) -> None:
    config, arguments, _, message = FAILURES[name]
    phone.configure(**config)
    device = ["--device", f"android:{arguments['serial']}"] if arguments else []
    assert command(phone.bundle, *device) == STATUSES[name]
    # Before it, stages that were done may have been told of.
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert not (phone.folder / "report.json").exists()


def test_the_command_refuses_a_bundle_for_another_target(
    phone: Phone, command: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(Path(__file__).resolve().parents[1] / "fixtures" / "replay.s2pmobile") == 2
    assert capfd.readouterr().err.startswith("error: replay.s2pmobile is for coreml; convert with ")
    assert not (phone.folder / "log.txt").exists()
