"""The devicectl driver from end to end, with a stand-in xcrun that keeps the app's container in a folder."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import s2p_mobile.devices.ios
from s2p_mobile.cli.app import as_options, run
from s2p_mobile.devices import IosSettings, UnitRun, bench_ios, compare_units_ios
from s2p_mobile.devices.ios import AppError
from s2p_runtime.bundle import open_bundle
from s2p_runtime.contract import read_contract
from s2p_runtime.errors import CheckFailed, S2PError
from s2p_runtime.files import sha256_file
from s2p_runtime.progress import ProgressEvent, Told
from s2p_runtime.report import BenchReport

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
UDID, OTHER = "00008130-000A11D02EF8001C", "00008120-001C59E23A10401E"


def row(udid: str = UDID, name: str = "Ada's iPhone", **changes: str) -> dict[str, Any]:
    """One device as ``devicectl list devices`` lists it."""
    connection = {"pairingState": "paired", "transportType": "wired", "tunnelState": "connected", **changes}
    return {
        "identifier": f"CORE-{udid}",
        "connectionProperties": connection,
        "deviceProperties": {"name": name, "osVersionNumber": "18.1"},
        "hardwareProperties": {"platform": "iOS", "productType": "iPhone16,1", "reality": "physical", "udid": udid},
    }


WATCH = {**row("WATCH", "Watch"), "hardwareProperties": {"platform": "watchOS", "udid": "WATCH"}}


class Phone:
    """The stand-in's folder, and the driver called on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bundle = FIXTURES / "replay.s2pmobile"
        self.out = folder / "out" / "phone.json"
        self.out.parent.mkdir()
        (folder / "bin").mkdir()
        self.xcrun = folder / "bin" / "xcrun"
        self.xcrun.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("standin_xcrun.py")}" "$@"\n')
        self.xcrun.chmod(0o755)
        self.progress: list[ProgressEvent] = []
        self.configure()

    def configure(self, **changes: Any) -> None:
        config = {"devices": [row(), WATCH], "apps": ["org.s2pmobile.bench"], **changes}
        (self.folder / "config.json").write_text(json.dumps(config))

    def bench(self, udid: str | None = None, **settings: Any) -> BenchReport:
        return bench_ios(
            self.bundle, udid, 2, 1, 0.0, self.out, Told(self.progress.append),
            IosSettings(**{"xcrun": self.xcrun, "minimum_seconds": 0.0, **settings}),
        )  # fmt: skip

    def calls(self, *verb: str) -> list[list[str]]:
        lines = (self.folder / "log.txt").read_text().splitlines()
        return [call for call in map(json.loads, lines) if call[2 : 2 + len(verb)] == list(verb)]

    @property
    def documents(self) -> Path:
        return self.folder / "container" / "Documents"


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    monkeypatch.setenv("S2P_STANDIN", str(tmp_path))
    return Phone(tmp_path)


def test_measures_and_brings_report_and_pictures_back(phone: Phone) -> None:
    report = phone.bench()
    assert read_contract(phone.out, BenchReport, "s2p-report", 2) == report
    assert report.bundle_sha256 == sha256_file(phone.bundle / "manifest.json") and report.protocol.runs == 2
    for fidelity in report.fidelity:
        assert (phone.out.parent / f"phone-{fidelity.golden_id}.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in phone.out.parent.iterdir()) == sorted(
        ["phone.json", *(f"phone-{fidelity.golden_id}.png" for fidelity in report.fidelity)]
    )
    pictures = [(event.done, event.total) for event in phone.progress if event.stage == "measured pictures"]
    assert pictures == [(0, 2), (1, 2), (2, 2)]
    assert [event.stage for event in phone.progress][:4] == ["copying", "copying", "memory pass", "golden pictures"]


def test_the_app_is_launched_as_documented(phone: Phone) -> None:
    phone.bench(compute_unit="unet=gpu")
    launch, memory = phone.calls("process", "launch")
    words = launch[launch.index("org.s2pmobile.bench") + 1 :]
    assert launch[:9] == ["devicectl", "device", "process", "launch", "--device", UDID, "--console", "--terminate-existing",
                          "org.s2pmobile.bench"]  # fmt: skip
    name = words[2]
    expected = f"--headless run {name} --out report.json --pictures pictures --runs 2 --warmup 1 --cooldown 0.0 --minimum 0.0"
    assert words == [*expected.split(), "--compute-unit", "unet=gpu"]
    assert memory[:9] == launch[:9]
    assert memory[9:] == f"--headless memory {name} --out report.json --compute-unit unet=gpu".split()
    assert open_bundle(phone.documents / name).manifest == open_bundle(phone.bundle).manifest


def test_copies_the_bundle_once_and_again_when_it_is_not_whole(phone: Phone) -> None:
    phone.bench()
    assert len(phone.calls("copy", "to")) == 2  # the bundle and the mark that all of it arrived
    phone.bench()
    assert len(phone.calls("copy", "to")) == 2
    next(phone.documents.glob("*.s2pmobile/.copied")).unlink()
    phone.bench()
    assert len(phone.calls("copy", "to")) == 4
    shutil.rmtree(next(phone.documents.glob("*.s2pmobile")))  # as in the Files app
    assert phone.bench().harness == "ios" and len(phone.calls("copy", "to")) == 6


def test_a_picture_unlike_the_golden_one_is_a_report_all_the_same(phone: Phone) -> None:
    phone.configure(app={"faithful": False})
    assert phone.bench().validity.fidelity_ok is False


def test_memory_comes_from_a_launch_of_its_own(phone: Phone) -> None:
    memory = phone.bench().memory
    assert memory.own_launch is True and memory.peak_bytes == 123_456_789
    phone.configure(app={"memory_signal": 9})
    # That launch failed: what was measured stands, and says where its memory comes from.
    kept = phone.bench()
    assert not kept.memory.own_launch and kept.summary_ms and read_contract(phone.out, BenchReport, "s2p-report", 2) == kept


def test_finds_the_app_of_any_team(phone: Phone) -> None:
    phone.configure(apps=["com.example.other", "org.s2pmobile.benchmark", "org.s2pmobile.bench.ABCDE12345"])
    phone.bench()
    assert {call[8] for call in phone.calls("process", "launch")} == {"org.s2pmobile.bench.ABCDE12345"}
    phone.configure(apps=["org.s2pmobile.bench.ABCDE12345", "org.s2pmobile.bench.VWXYZ67890"])
    with pytest.raises(S2PError, match="choose with `app_id`"):
        phone.bench()
    phone.bench(app_identifier="org.s2pmobile.bench.VWXYZ67890")
    assert phone.calls("process", "launch")[-1][8] == "org.s2pmobile.bench.VWXYZ67890"


def test_stages_are_loaded_as_the_command_says(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(phone.xcrun.parent), prepend=":")
    for number, option in enumerate(("--stage", "--no-stage")):
        out = str(phone.out.with_name(f"{number}.json"))
        app = "org.s2pmobile.bench"
        assert (
            run(["bench", str(phone.bundle), "--device", "ios", option, "--app-id", app, "--minimum", "0", "--out", out]) == 0
        )
        assert [option in call for call in phone.calls("process", "launch")[-2:]] == [True, True]


def test_an_idle_device_and_one_named_by_either_identifier_are_found(phone: Phone) -> None:
    idle = row(tunnelState="disconnected")
    phone.configure(devices=[row(OTHER, "Bo's iPad", tunnelState="unavailable"), idle])
    assert phone.bench().harness == "ios"
    phone.configure(devices=[row(OTHER, "Bo's iPad"), idle])
    phone.bench(UDID)
    phone.bench(f"CORE-{UDID}")
    assert {call[call.index("--device") + 1] for call in phone.calls("process", "launch")} == {UDID}


def test_installs_a_built_app(phone: Phone) -> None:
    app = phone.folder / "S2PBenchMain.app"
    app.mkdir()
    phone.configure(apps=[])
    phone.bench(app=app)
    assert phone.calls("install", "app")[0][6] == str(app)


LOCKED = "Unable to launch org.s2pmobile.bench because the device was not, or could not be, unlocked."
FAILURES: dict[str, tuple[dict[str, Any], dict[str, Any], type[S2PError], str]] = {
    "no Xcode": (
        {},
        {"xcrun": "/nowhere/xcrun"},
        S2PError,
        "needs a Mac: install Xcode 16 from the App Store and open it once",
    ),
    "tools only": ({"no_devicectl": True}, {}, S2PError, "this xcrun has no devicectl; install Xcode 16"),
    "no device": ({"devices": [WATCH]}, {}, S2PError, "no iPhone or iPad is connected; connect one"),
    "several": (
        {"devices": [row(), row(OTHER, "Bo's iPad")]},
        {},
        S2PError,
        f"{UDID} (Ada's iPhone), {OTHER} (Bo's iPad); choose with --device ios:UDID",
    ),
    "another": ({}, {"udid": "C3"}, S2PError, f"no device C3 is known to Xcode; there is {UDID} (Ada's iPhone)"),
    "out of reach": ({"devices": [row(tunnelState="unavailable")]}, {}, S2PError, "Ada's iPhone is out of reach; connect it"),
    "unpaired": ({"devices": [row(pairingState="unpaired")]}, {}, S2PError, "does not trust this Mac; unlock it, answer Trust"),
    "no app": (
        {"apps": ["com.example.other"]},
        {},
        S2PError,
        "is not on Ada's iPhone; build and install it as docs/devices.md says",
    ),
    "no built app": ({}, {"app": Path("/nowhere/S2PBenchMain.app")}, S2PError, "is no built app; give the S2PBenchMain.app"),
    "untrusted app": (
        {"refuse": {"launch": "the profile has not been explicitly trusted by the user."}},
        {},
        S2PError,
        "open Settings, General, VPN & Device Management and trust it",
    ),
    "locked": (
        {"refuse": {"launch": LOCKED}},
        {},
        S2PError,
        "Ada's iPhone is locked; unlock it, keep its screen on and run again",
    ),
    "lost": (
        {"lost_during_run": True},
        {},
        S2PError,
        "Ada's iPhone went away (The operation failed. The device is not connected)",
    ),
    "disk full": ({"refuse": {"to": "There is no space left on the device."}}, {}, S2PError, "no space left on Ada's iPhone"),
    "refused": (
        {"refuse": {"apps": "Something else."}},
        {},
        S2PError,
        "did not list its apps (The operation failed. Something else)",
    ),
    "app error": ({"app": {"error": "unet is broken; convert again"}}, {}, AppError, "unet is broken; convert again"),
    "memory": ({"app": {"signal": 9}}, {}, CheckFailed, "most likely because memory ran out; close other apps, or convert"),
    "crash": ({"app": {"signal": 11}}, {}, CheckFailed, "the app crashed on Ada's iPhone (signal 11)"),
    "no report": ({"app": {"silent": True}}, {}, S2PError, "left no report"),
    "malformed": ({"app": {"report": "{"}}, {}, S2PError, "is not readable JSON"),
    "future": ({"app": {"report": '{"format": "s2p-report", "version": 9}'}}, {}, S2PError, "has format version 9"),
    "endless": ({"app": {"endless": True}}, {"limit_seconds": 1.0}, S2PError, "did not finish within 1 s; keep it unlocked"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_says_what_to_do(phone: Phone, name: str) -> None:
    config, arguments, kind, message = FAILURES[name]
    phone.configure(**config)
    with pytest.raises(S2PError) as caught:
        phone.bench(**arguments)
    assert type(caught.value) is kind
    assert message in as_options(str(caught.value)) and "\n" not in str(caught.value)
    assert list(phone.out.parent.iterdir()) == []


def test_a_report_of_an_earlier_run_is_not_taken_for_a_new_one(phone: Phone) -> None:
    phone.bench()
    phone.out.unlink()
    phone.configure(refuse={"launch": LOCKED})
    with pytest.raises(S2PError, match="is locked"):
        phone.bench()
    assert not phone.out.exists()


def test_an_interrupt_ends_the_app(phone: Phone) -> None:
    def interrupt(event: ProgressEvent) -> None:
        if event.stage == "warm-up":
            raise KeyboardInterrupt

    phone.configure(app={"endless": True})
    with pytest.raises(KeyboardInterrupt):
        bench_ios(phone.bundle, None, 2, 0, 0.0, phone.out, Told(interrupt), IosSettings(xcrun=phone.xcrun))


def other_bundle(phone: Phone, target: str, *, timesteps: bool = False) -> None:
    """Give the phone a bundle for another target, or one whose U-Net takes timesteps."""
    phone.bundle = phone.folder / "other.s2pmobile"
    shutil.copytree(FIXTURES / "replay.s2pmobile", phone.bundle)
    manifest = json.loads((phone.bundle / "manifest.json").read_text())
    manifest["target"] = target
    if timesteps:
        manifest["components"]["unet"]["inputs"][1].update(name="timestep", dtype="float32", shape=[2])
    (phone.bundle / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("target", "timesteps", "message"),
    [
        ("executorch", False, "is for executorch; convert with s2p-mobile convert `target=coreml` or `target=coreai`"),
        ("coreml", True, "is in Apple's layout, whose U-Net takes timesteps; convert with `layout=s2p`"),
        ("coreai", True, "is in Apple's layout, whose U-Net takes timesteps; convert with `layout=s2p`"),
    ],
)
def test_refuses_a_bundle_that_the_app_cannot_run(phone: Phone, target: str, timesteps: bool, message: str) -> None:
    other_bundle(phone, target, timesteps=timesteps)
    with pytest.raises(S2PError, match=message):
        phone.bench()


def test_the_driver_takes_what_the_app_has_engines_for() -> None:
    engines = FIXTURES.parents[1] / "ios_harness" / "Sources" / "S2PMobile" / "Engines"
    declared = [
        re.findall(r"static let target = \"(\w+)\"", path.read_text(encoding="utf-8"))
        for path in engines.rglob("*Backend.swift")
    ]
    assert sorted(s2p_mobile.devices.ios.RUNS) == sorted(name for names in declared for name in names)


def test_a_core_ai_bundle_tells_specialisation_apart(phone: Phone) -> None:
    other_bundle(phone, "coreai")
    report = phone.bench(compute_unit="gpu")
    assert (report.target, set(report.compute_units.values())) == ("coreai", {"gpu"})
    phases = (report.timings_ms.load_phases or {})["unet"]
    assert phases["specialise"] == 41000.0 and phases["first"] == 120.0
    assert read_contract(phone.out, BenchReport, "s2p-report", 2) == report


def test_the_command_measures_on_an_iphone(
    phone: Phone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(phone.xcrun.parent), prepend=":")
    arguments = [
        "bench",
        str(phone.bundle),
        "--device",
        f"ios:{UDID}",
        "--runs",
        "2",
        "--minimum",
        "0",
        "--out",
        str(phone.out),
    ]
    assert run(arguments) == 0, capsys.readouterr().err
    assert read_contract(phone.out, BenchReport, "s2p-report", 2).protocol.runs == 2
    phone.configure(app={"faithful": False})
    assert run([*arguments, "--force"]) == 1


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Rests of the driver, which take no time here."""
    seconds: list[float] = []
    monkeypatch.setattr(s2p_mobile.devices.ios.time, "sleep", seconds.append)
    return seconds


def compare(phone: Phone, **settings: Any) -> list[UnitRun]:
    return compare_units_ios(
        phone.bundle, None, 2, 1, 0.0, phone.out, Told(phone.progress.append),
        IosSettings(xcrun=phone.xcrun, minimum_seconds=0.0, **settings),
    )  # fmt: skip


def test_units_are_compared_one_after_the_other_on_a_phone_that_rested(phone: Phone, slept: list[float]) -> None:
    runs = compare(phone)
    assert [one.unit for one in runs] == ["neural-engine", "gpu", "all"]
    launches = [call for call in phone.calls("process", "launch") if "run" in call]
    assert [call[call.index("--compute-unit") + 1] for call in launches] == ["neural-engine", "gpu", "all"]
    for one in runs:
        assert one.report is not None and one.problem is None
        assert set(one.report.compute_units.values()) == {one.unit}
        assert one.path == phone.out.with_name(f"phone-{one.unit}.json")
        assert read_contract(one.path, BenchReport, "s2p-report", 2) == one.report
    assert len(phone.calls("copy", "to")) == 2, "the bundle is copied once"
    # docs/devices.md: let it rest five minutes before a measurement. The first run is the user's own to prepare.
    assert sum(slept) == 2 * 300
    stages = [event.stage for event in phone.progress]
    rests = [index for index, event in enumerate(phone.progress) if "cool down" in event.stage]
    assert "measured pictures" in stages[: rests[0]] and "memory pass" in stages[rests[-1] :]
    assert [event.done for event in phone.progress if "cool down" in event.stage] == [*range(301)] * 2


def test_a_unit_that_cannot_run_the_bundle_is_part_of_the_comparison(phone: Phone, slept: list[float]) -> None:
    refused = "unet cannot run on this device (too large); try another --compute-unit, or --stage"
    phone.configure(app={"units": {"neural-engine": {"error": refused}, "all": {"signal": 9}}})
    engine, gpu, everything = compare(phone)
    assert (engine.report, engine.problem) == (None, refused)
    assert gpu.report is not None and everything.report is None
    assert everything.problem is not None and "memory ran out" in everything.problem
    assert sorted(path.suffix for path in phone.out.parent.glob("phone-*.json")) == [".json"]


def test_a_phone_that_went_away_ends_the_comparison(phone: Phone, slept: list[float]) -> None:
    phone.configure(lost_during_run=True)
    with pytest.raises(S2PError, match="went away"):
        compare(phone)
    assert len(phone.calls("process", "launch")) == 1 and slept == []


def command(phone: Phone, *more: str) -> list[str]:
    return ["bench", str(phone.bundle), "--device", "ios", "--runs", "2", "--minimum", "0", "--out", str(phone.out), *more]


def test_the_command_compares_units_in_one_table(
    phone: Phone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], slept: list[float]
) -> None:
    monkeypatch.setenv("PATH", str(phone.xcrun.parent), prepend=":")
    figures = phone.folder / "figures.json"
    assert run(command(phone, "--compare-units", "--json", str(figures))) == 0, capsys.readouterr().err
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    table = {row[0].strip(): [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}
    assert table[""] == ["neural-engine", "gpu", "all"]
    assert table["U-Net call p50, ms"] == ["25.0", "75.0", "3.00x", "50.0", "2.00x"]
    # Of the five operators that have a place in the fixture two run on the engine; on a GPU run all six have one.
    assert table["operators on the Neural Engine"] == ["40 % (2 of 5)", "0 % (0 of 6)", "40 % (2 of 5)"]
    assert table["heat"] == ["nominal to fair, up to 31.5 C"] * 3
    assert {"whole picture p50, ms", "peak memory, MB"} <= set(table)
    told = json.loads(figures.read_text())
    assert [one["operators_on_engine"] for one in told["reports"]] == [2, 0, 2] and told["problems"] == {}
    phone.configure(app={"units": {"gpu": {"error": "unet is broken; convert again"}}})
    assert run(command(phone, "--compare-units", "--force")) == 1
    out = capsys.readouterr().out
    assert "gpu failed: unet is broken; convert again" in out and "25.0" in out and "50.0" in out
    phone.configure(app={"units": {"all": {"faithful": False}}})
    assert run(command(phone, "--compare-units", "--force")) == 1


def test_units_of_a_core_ai_bundle_are_compared_without_places(
    phone: Phone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], slept: list[float]
) -> None:
    monkeypatch.setenv("PATH", str(phone.xcrun.parent), prepend=":")
    other_bundle(phone, "coreai")
    assert run(command(phone, "--compare-units")) == 0, capsys.readouterr().err
    lines = capsys.readouterr().out.splitlines()
    (calls,) = (line for line in lines if line.startswith("U-Net call p50, ms"))
    assert calls.split()[4:] == ["25.0", "75.0", "3.00x", "50.0", "2.00x"]
    # Core AI tells no places.
    assert not any("%" in line for line in lines if line.startswith("operators on the Neural Engine"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compare-units", "--device", "host"], "--compare-units is an option of ios, not of 'host'; give --device ios"),
        (["--compare-units", "--device", "android:X"], "--compare-units is an option of ios, not of 'android:X'"),
        (["--compare-units", "--device", "ios:"], "--compare-units is an option of ios, not of 'ios:'"),
        (
            ["--compare-units", "--compute-unit", "gpu"],
            "--compute-unit does not go with --compare-units; leave one of them out",
        ),
        (["--compare-units", "--threads", "2"], "--threads does not go with --compare-units"),
        (
            ["--compute-unit", "gpu", "--device", "host"],
            "--compute-unit is an option of ios; other engines have no such choice",
        ),
        (["--compute-unit", "gpu", "--device", "android"], "--compute-unit is an option of ios"),
    ],
)
def test_units_are_for_iphones(
    phone: Phone, capsys: pytest.CaptureFixture[str], words: list[str], message: str, slept: list[float]
) -> None:
    assert run([*command(phone), *words]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and message in errors[0]
    assert not (phone.folder / "log.txt").exists() and slept == []


def test_an_earlier_comparison_is_not_replaced(phone: Phone, capsys: pytest.CaptureFixture[str]) -> None:
    kept = phone.out.with_name("phone-gpu.json")
    kept.write_text("mine")
    assert run(command(phone, "--compare-units")) == 2
    assert "exists" in capsys.readouterr().err and kept.read_text() == "mine"
    assert not (phone.folder / "log.txt").exists(), "refused before anything is measured"
