"""`s2p-mobile bench --device android-app` from end to end, with a stand-in adb and a stand-in app that measures with this machine's
runner."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from s2p_mobile.cli.app import as_options, run
from s2p_mobile.devices.android import AndroidSettings
from s2p_mobile.devices.android_app import PACKAGE, AppSettings, bench_android_app
from s2p_runtime.bundle import Bundle
from s2p_runtime.contract import read_contract
from s2p_runtime.errors import CheckFailed, S2PError
from s2p_runtime.files import list_files
from s2p_runtime.progress import ProgressEvent, Told
from s2p_runtime.report import BenchReport
from s2p_runtime.tensors import read_tensors

SERVICES = {
    "dumpsys battery": "  AC powered: false\n  USB powered: false\n  level: 83\n  scale: 100\n  temperature: 250\n",
    "dumpsys thermalservice": "Thermal Status: 0\n",
    "settings get global low_power": "0\n",
}


class Phone:
    """The stand-in's folder, and the driver called on it."""

    def __init__(self, folder: Path, runner: Path, bundle: Path) -> None:
        self.folder, self.runner, self.bundle = folder, runner, bundle
        self.adb = folder / "adb"
        self.adb.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("standin_adb.py")}" "$@"\n')
        self.adb.chmod(0o755)
        self.apk = folder / "app.apk"
        self.apk.write_bytes(b"an app")
        self.progress: list[ProgressEvent] = []
        self.configure()

    def configure(self, **changes: Any) -> None:
        config = {"devices": {"192.0.2.7:5555": "device"}, "services": SERVICES, "app": str(self.runner), **changes}
        (self.folder / "config.json").write_text(json.dumps(config))

    def bench(self, **changes: Any) -> BenchReport:
        phone = AndroidSettings(adb=self.adb, poll_seconds=0.01, wait_seconds=5.0, minimum_seconds=0.0, keep_files=True)
        settings = AppSettings(**{"phone": phone, "apk": self.apk, "poll_seconds": 0.05, "start_seconds": 20.0, **changes})
        out = self.folder / "report.json"
        return bench_android_app(self.bundle, None, 2, 1, 0.0, 1, out, Told(self.progress.append), settings)

    def shell(self) -> list[str]:
        calls = [json.loads(line) for line in (self.folder / "log.txt").read_text().splitlines()]
        return [call[3] for call in calls if len(call) > 3 and call[2] == "shell"]

    @property
    def left(self) -> list[str]:
        """What lies on the device, but for the bundle."""
        device = self.folder / "device"
        paths = [path for path in device.rglob("*") if path.is_file()]
        return sorted(str(path.relative_to(device)) for path in paths if "bundles" not in path.parts)


@pytest.fixture
def phone(runner_folder: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    monkeypatch.setenv("S2P_STANDIN", str(tmp_path))
    return Phone(tmp_path, runner_folder / "s2p-bench", tiny_bundle.folder)


def test_installs_measures_and_brings_everything_back(phone: Phone) -> None:
    report = phone.bench()
    assert (phone.folder / "installed").exists()
    assert read_contract(phone.folder / "report.json", BenchReport, "s2p-report", 2) == report
    assert report.bundle_name == "tiny" and report.protocol.runs == 2 and report.protocol.threads == 1
    assert report.validity.fidelity_ok and report.validity.unplugged and report.validity.low_power_mode_off
    recorded = read_tensors(phone.bundle / "golden" / "first.safetensors")["image"][0]
    picture = np.asarray(Image.open(phone.folder / "report-first.png"), float)
    # Other kernels in float32 move a value to the next grey level at most.
    assert np.abs(picture - np.clip(recorded / 2 + 0.5, 0, 1).transpose(1, 2, 0) * 255).max() <= 1.5
    # Two launches: the second one measures memory alone.
    starts = [command for command in phone.shell() if command.startswith("am start")]
    assert len(starts) == 2 and "--es pass memory" in starts[1] and "pass" not in starts[0]
    assert report.memory.own_launch and report.memory.peak_bytes is not None
    assert "memory.peak_bytes" not in report.missing
    assert any("chmod -R a+rX" in command for command in phone.shell()), "the app may read what the shell copied"
    assert phone.left == []
    assert {event.stage for event in phone.progress} >= {"copying"}


def test_needs_no_apk_where_the_app_is_installed(phone: Phone) -> None:
    phone.configure(installed=True)
    assert phone.bench(apk=None).validity.fidelity_ok
    assert not (phone.folder / "installed").exists()


def test_times_survive_when_the_launch_for_memory_is_killed(phone: Phone) -> None:
    phone.configure(app_killed_in="memory")
    report = phone.bench()
    assert report.validity.fidelity_ok and report.summary_ms["image"].count == 2
    assert report.memory.peak_bytes is None
    assert "the launch that measures memory ended early" in report.missing["memory.peak_bytes"]


FAILURES: dict[str, tuple[dict[str, Any], dict[str, Any], type[S2PError], str]] = {
    "not installed": ({}, {"apk": None}, S2PError, f"has not the app {PACKAGE}; name its file with --apk"),
    "no file": ({}, {"apk": Path("/nowhere/app.apk")}, S2PError, "no app at /nowhere/app.apk; build it as"),
    "refused": ({"refuses_apps": True}, {}, S2PError, "[INSTALL_FAILED_USER_RESTRICTED]); allow installing over USB"),
    "killed": ({"app_killed_at": "warmup"}, {}, CheckFailed, "most likely because memory ran out; close other apps"),
    "the app's own line": ({"app": "RUNNER-THAT-REFUSES"}, {}, S2PError, "no golden run; convert again"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_says_what_to_do_and_leaves_nothing(phone: Phone, name: str) -> None:
    config, arguments, kind, message = FAILURES[name]
    if config.get("app"):
        script = phone.folder / "refusing-runner"
        script.write_text('#!/bin/sh\necho "error: no golden run; convert again" >&2\nexit 2\n')
        script.chmod(0o755)
        config = {"app": str(script)}
    phone.configure(**config)
    with pytest.raises(S2PError) as caught:
        phone.bench(**arguments)
    assert type(caught.value) is kind
    assert message in as_options(str(caught.value)) and "\n" not in str(caught.value)
    assert not (phone.folder / "report.json").exists() and phone.left == []


Compile = Callable[..., Path]
GEN_3, GEN_2 = ({"services": {**SERVICES, "getprop ro.soc.model": f"{chip}\n"}} for chip in ("SM8650", "SM8550"))


def test_measures_a_bundle_for_the_phones_npu(phone: Phone, compile_for_chips: Compile) -> None:
    phone.bundle = compile_for_chips(phone.bundle, phone.folder / "npu.s2pmobile", ("SM8750", "SM8650"))
    phone.configure(**GEN_3, npu=True)
    report = phone.bench()
    assert report.validity.fidelity_ok and report.memory.own_launch
    assert report.device.soc == "SM8650" and "device.soc" not in report.missing
    assert set(report.backend) == {"text_encoder", "unet", "vae_decoder"}
    assert all(text.endswith(", NPU V75 of SM8650") for text in report.backend.values())
    (remote,) = (phone.folder / "device/s2p-mobile/bundles").iterdir()
    names = list_files(remote)
    assert [name for name in names if name.startswith("SM")] == [f"SM8650/{name}.pte" for name in sorted(report.backend)]
    assert {"manifest.json", "golden/first.safetensors", "tokenizer/vocab.json"} <= set(names)
    assert read_contract(phone.folder / "report.json", BenchReport, "s2p-report", 2) == report


def test_refuses_a_bundle_for_other_chips_before_anything_is_copied(phone: Phone, compile_for_chips: Compile) -> None:
    phone.bundle = compile_for_chips(phone.bundle, phone.folder / "npu.s2pmobile")
    bundle = (
        "npu.s2pmobile is for the NPU of SM8650 (Snapdragon 8 Gen 3), SM8750 (Snapdragon 8 Elite), and device 192.0.2.7:5555 "
    )
    for chip, message in {
        "SM8550": "has SM8550 (Snapdragon 8 Gen 2); convert with --soc SM8550",
        "Tensor G4": "has Tensor G4; convert with --backend xnnpack to measure its processor",
        "": "does not name its chip, which takes Android 12; convert with --backend xnnpack to measure its processor",
    }.items():
        phone.configure(services={**SERVICES, "getprop ro.soc.model": f"{chip}\n"})
        with pytest.raises(S2PError) as caught:
            phone.bench()
        assert as_options(str(caught.value)) == bundle + message
    calls = [json.loads(line) for line in (phone.folder / "log.txt").read_text().splitlines()]
    assert {tuple(call[2:]) for call in calls if call != ["devices"]} == {("shell", "getprop ro.soc.model")}


def test_the_app_says_that_it_lacks_the_engine(phone: Phone, compile_for_chips: Compile) -> None:
    phone.bundle = compile_for_chips(phone.bundle, phone.folder / "npu.s2pmobile", ("SM8650",))
    phone.configure(**GEN_3)
    script = phone.folder / "refusing-runner"
    script.write_text('#!/bin/sh\necho "error: this app lacks a library, which the NPU needs; add a line" >&2\nexit 2\n')
    script.chmod(0o755)
    phone.configure(**GEN_3, app=str(script))
    with pytest.raises(S2PError, match=r"^this app lacks a library, which the NPU needs; add a line$"):
        phone.bench()


def test_other_bundles_ask_for_no_chip(phone: Phone) -> None:
    phone.configure(**GEN_2)
    report = phone.bench()
    assert report.validity.fidelity_ok and not any("NPU" in text for text in report.backend.values())
    assert "getprop ro.soc.model" not in phone.shell()


def test_drivers_know_chips_without_torch() -> None:
    check = "import sys, s2p_mobile.devices; sys.exit(bool({'torch', 'onnxruntime', 'executorch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_an_interrupt_stops_the_app(phone: Phone) -> None:
    def interrupt(event: ProgressEvent) -> None:
        if event.stage == "measured pictures":
            raise KeyboardInterrupt

    settings = AppSettings(AndroidSettings(adb=phone.adb, minimum_seconds=0.0), phone.apk, poll_seconds=0.05)
    with pytest.raises(KeyboardInterrupt):
        bench_android_app(phone.bundle, None, 10_000, 0, 0.0, 1, phone.folder / "report.json", Told(interrupt), settings)
    assert f"am force-stop {PACKAGE}" in phone.shell()[-1] and phone.left == []
    assert not (phone.folder / "app.pid").exists()


def test_what_a_stopped_app_still_writes_goes_too(phone: Phone) -> None:
    phone.configure(late_write=True)
    phone.bench()
    assert (phone.folder / "late").exists() and phone.left == []


def test_the_command(phone: Phone, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", f"{phone.folder}:{Path(sys.executable).parent}:/usr/bin:/bin")
    command: Callable[..., int] = lambda *more: run(["bench", str(phone.bundle), "--runs", "1", "--minimum", "0", *more])  # noqa: E731
    out = ["--out", str(phone.folder / "report.json")]
    # Two phones, and a serial number with a colon in it.
    chosen = "192.0.2.7:5555"
    phone.configure(devices={"A1B2C3": "device", chosen: "device"})
    assert command("--device", "android-app", "--apk", str(phone.apk), *out) == 2
    assert f"(A1B2C3, {chosen}); choose with --device android-app:SERIAL" in capfd.readouterr().err
    assert command("--device", f"android-app:{chosen}", "--apk", str(phone.apk), *out) == 0
    calls = [json.loads(line) for line in (phone.folder / "log.txt").read_text().splitlines()]
    assert len(calls) > 10 and {tuple(call[:2]) for call in calls if call != ["devices"]} == {("-s", chosen)}
    assert read_contract(phone.folder / "report.json", BenchReport, "s2p-report", 2).validity.fidelity_ok
    for words, message in (
        (["--device", "host", "--apk", str(phone.apk)], "--apk is an option of android-app"),
        (["--device", "android-app", "--cores", "0"], "--cores is an option of host and android"),
        (["--device", "android-apps"], "give host, android-app, android, ios, or a phone as android-app:SERIAL"),
    ):
        assert command(*words, *out, "--force") == 2
        assert message in capfd.readouterr().err
