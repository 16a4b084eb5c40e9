"""The bench command: whom it asks, what it refuses, what it leaves behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import s2p_mobile.devices.ios
import s2p_runtime.bench
from s2p_mobile.cli.app import run
from s2p_runtime.report import BenchReport

FIXTURES = Path(__file__).parents[2] / "fixtures"
Fails = Callable[..., str]


@pytest.fixture()
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture()
def bundle(place: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "ancestral.s2pmobile", place / "b.s2pmobile"))


@pytest.fixture()
def measured() -> BenchReport:
    return BenchReport.model_validate_json((FIXTURES / "report.json").read_text())


@pytest.mark.parametrize("device", ["phone", "", "host:", "android:", "ios:", "Host"])
def test_unknown_devices(fails: Fails, bundle: Path, device: str) -> None:
    assert "unknown device" in fails("bench", bundle, "--device", device)


def test_bad_input(fails: Fails, bundle: Path) -> None:
    assert "does not exist" in fails("bench", "nothing")
    assert "has no devices" in fails("bench", bundle, "--device", "host:1")
    assert "is not a core" in fails("bench", bundle, "--cores", "a")
    assert "option of phones" in fails("bench", bundle, "--allow-charging")
    assert "--help" in fails("bench", bundle, "--runs", "0")
    # The fixture was made without an engine.
    assert "does not say which executorch made it" in fails("bench", bundle)


def test_bundle_of_another_target(fails: Fails, place: Path) -> None:
    coreml = Path(shutil.copytree(FIXTURES / "replay.s2pmobile", place / "c.s2pmobile"))
    assert "is for coreml" in fails("bench", coreml, "--device", "android")


def test_report_that_exists(fails: Fails, place: Path, bundle: Path) -> None:
    (place / "report.json").write_text("mine")
    assert "exists" in fails("bench", bundle)
    assert (place / "report.json").read_text() == "mine"


def test_host_leaves_report_and_pictures(
    place: Path, bundle: Path, measured: BenchReport, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    asked: list[Any] = []

    def bench_host(given: Any, settings: Any, progress: Any, on_picture: Callable[[str, np.ndarray], None]) -> BenchReport:
        asked.extend((given.folder, settings))
        on_picture("first", picture)
        return measured

    monkeypatch.setattr(s2p_runtime.bench, "bench_host", bench_host)
    options = ["--runs", "3", "--warmup", "2", "--cooldown", "4", "--minimum", "9", "--threads", "2", "--cores", "0,2-3"]
    assert run(["bench", str(bundle), *options, "--out", "out/r.json", "--json", "-"]) == 0
    assert asked == [bundle, s2p_runtime.bench.HostSettings(3, 2, 4.0, 9.0, 2, (0, 2, 3))]
    captured = capfd.readouterr()
    assert BenchReport.model_validate_json(captured.out) == measured
    assert "20.2" in captured.err and "61.5 dB" in captured.err
    assert sorted(path.name for path in (place / "out").iterdir()) == ["r-first.png", "r.json"]
    assert BenchReport.model_validate_json((place / "out" / "r.json").read_text(), strict=True) == measured
    np.testing.assert_array_equal(np.asarray(Image.open(place / "out" / "r-first.png")), picture)


def test_another_picture_than_the_golden_one_is_status_1(
    bundle: Path, measured: BenchReport, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = measured.model_copy(update={"validity": measured.validity.model_copy(update={"fidelity_ok": False})})
    monkeypatch.setattr(s2p_runtime.bench, "bench_host", lambda *_: wrong)
    assert run(["bench", str(bundle)]) == 1
    assert "not the golden picture" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("device", "serial"), [("android", None), ("android:emu-5554", "emu-5554"), ("android:10.0.0.2:5555", "10.0.0.2:5555")]
)
def test_android_is_asked(
    device: str, serial: str | None, place: Path, bundle: Path, measured: BenchReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def bench_android(*arguments: Any) -> BenchReport:
        asked.extend(arguments)
        return measured

    monkeypatch.setattr(s2p_mobile.devices, "bench_android", bench_android)
    options = ["--runs", "3", "--warmup", "2", "--cooldown", "4", "--minimum", "9", "--threads", "2", "--cores", "4-7"]
    assert run(["bench", str(bundle), "--device", device, *options, "--allow-charging"]) == 0
    *first, progress, settings = asked
    assert first == [bundle, serial, 3, 2, 4.0, 2, "4-7", Path("report.json")]
    assert settings.allow_charging and settings.minimum_seconds == 9
    assert callable(progress.stage)


@pytest.mark.parametrize(("device", "udid"), [("ios", None), ("ios:00008130-000A", "00008130-000A")])
def test_ios_is_asked(
    device: str, udid: str | None, bundle: Path, measured: BenchReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def bench_ios(*arguments: Any) -> BenchReport:
        asked.extend(arguments)
        return measured

    monkeypatch.setattr(s2p_mobile.devices.ios, "bench_ios", bench_ios)
    options = ["--runs", "3", "--warmup", "2", "--cooldown", "4", "--minimum", "9"]
    assert run(["bench", str(bundle), "--device", device, *options]) == 0
    *first, progress, settings = asked
    assert first == [bundle, udid, 3, 2, 4.0, Path("report.json")]
    assert settings.minimum_seconds == 9 and callable(progress.stage)


@pytest.mark.parametrize("option", [("--threads", "2"), ("--cores", "0"), ("--allow-charging",)])
def test_what_ios_cannot_choose(fails: Fails, bundle: Path, option: tuple[str, ...]) -> None:
    assert fails("bench", bundle, "--device", "ios", *option).startswith(f"error: {option[0]} is an option of")


def test_json_of_the_report_is_one_document(
    bundle: Path, measured: BenchReport, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    monkeypatch.setattr(s2p_runtime.bench, "bench_host", lambda *_: measured)
    assert run(["bench", str(bundle), "--json", "figures.json"]) == 0
    assert json.loads((place / "figures.json").read_text()) == json.loads((FIXTURES / "report.json").read_text())
