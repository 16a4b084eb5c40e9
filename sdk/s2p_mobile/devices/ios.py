"""Measure a bundle on an iPhone or iPad: copy it into the harness app, launch the app without its screen, fetch the report."""

from __future__ import annotations

import re
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from s2p_mobile.devices.devicectl import Device, Launch, find_xcrun
from s2p_runtime.bundle import MANIFEST_NAME, Bundle, open_bundle
from s2p_runtime.contract import read_contract, write_contract
from s2p_runtime.errors import CheckFailed, S2PError
from s2p_runtime.files import atomic_file, sha256_file
from s2p_runtime.progress import Progress, RunningStages, Silent
from s2p_runtime.report import REPORT_FORMAT, REPORT_VERSION, BenchReport, picture_path

APP_IDENTIFIER = "org.s2pmobile.bench"
"""Of ios_harness/App/project.yml, which adds the developer's team behind a point: an identifier belongs to one team."""

RUNS = ("coreml", "coreai")
"""Targets whose bundles the app runs: the engines of ``ios_harness/Sources/S2PMobile/Engines``."""

_MEASURED = "measured pictures"
_PHASES = {
    "memory": "memory pass",
    "fidelity": "golden pictures",
    "warm-up": "warm-up",
    "cool-down": "waiting for the device",
    "timing": _MEASURED,
}
"""What the app tells of, in words."""
COMPARED_UNITS = ("neural-engine", "gpu", "all")
"""In this order: the first is what programs are written for."""
REST_SECONDS = 300.0
"""Between two runs of a comparison. A phone that has just measured is warm, and the next run would start throttled."""
_PICTURES = "pictures"
_OUT_OF_MEMORY = 9
"""SIGKILL: how iOS ends an app that has used up its memory."""


class AppError(S2PError):
    """What the app says is wrong; another run may well succeed."""


@dataclass(frozen=True)
class UnitRun:
    """One run of a comparison.

    Attributes:
        unit: for which every program was loaded.
        path: of its report.
        report: None: the run failed.
        problem: why it failed, in one line; None: it did not.
    """

    unit: str
    path: Path
    report: BenchReport | None
    problem: str | None


@dataclass(frozen=True)
class IosSettings:
    """How the device is reached and the app is launched.

    Attributes:
        xcrun: the xcrun program; absent: the one on PATH.
        app: a built S2PBenchMain.app to install first; absent: it is installed already.
        app_identifier: of that app, for a build under another name; absent: the installed one that begins with
            :data:`APP_IDENTIFIER`.
        minimum_seconds: the app measures at least this long.
        compute_unit: for every program (``neural-engine``, ``gpu``, ``all`` or ``cpu``), or for one (``unet=gpu``); absent: what
            the bundle says.
        stage: load and release each component per picture; None: the app decides by free memory.
        release_chunks: of a U-Net in several programs, load and let go of each at every call.
        limit_seconds: when the app has not ended by then, it is stopped.
    """

    xcrun: str | Path | None = None
    app: Path | None = None
    app_identifier: str | None = None
    minimum_seconds: float = 60.0
    compute_unit: str | None = None
    stage: bool | None = None
    release_chunks: bool = False
    limit_seconds: float = 7200.0


def bench_ios(
    bundle: Path,
    udid: str | None,
    runs: int,
    warmup: int,
    cooldown: float,
    out: Path,
    progress: Progress | None = None,
    settings: IosSettings | None = None,
) -> BenchReport:
    """Measure ``bundle`` on a device; write the report, and beside it the pictures that the device drew.

    The app is launched twice: once to measure, and once more for memory alone, when nothing is compiled.

    Args:
        bundle: for a target of :data:`RUNS`.
        udid: of the device; None when there is only one.
        runs: measured pictures, at least.
        warmup: pictures before them.
        cooldown: seconds of rest before the measured pictures.
        out: the report; an existing one is replaced.
        progress: told of stages here and on the device.
        settings: see :class:`IosSettings`.

    Raises:
        S2PError: no Xcode, no (or several) devices, a locked device or one that went away, no app, no report or a malformed
            one, a bundle for another target, or what the app says is wrong.
        CheckFailed: the app was ended by the system, most likely because memory ran out.
    """
    settings, listener = settings or IosSettings(), progress or Silent()
    opened = open_bundle(bundle)
    _check_bundle(opened)
    device = Device.connect(find_xcrun(settings.xcrun), udid)
    app = _ensure_app(device, settings)
    digest = sha256_file(bundle / MANIFEST_NAME)
    name = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', opened.manifest.name)}-{digest[:12]}.s2pmobile"
    _push(device, app, opened, name, digest, listener)
    with RunningStages(listener) as stages:
        launch = device.launch(
            app, _words(name, runs, warmup, cooldown, settings), _Listener(stages, runs), settings.limit_seconds
        )
    with tempfile.TemporaryDirectory() as scratch:
        report = _fetch_report(device, app, launch, Path(scratch))
        if report.bundle_sha256 != digest:
            raise S2PError(f"the report on {device.name} is of another bundle", "close the app on the device and run again")
        report = _with_memory_of_its_own(device, app, name, report, settings, listener, Path(scratch))
        for fidelity in report.fidelity:
            picture = Path(scratch) / f"{fidelity.golden_id}.png"
            if device.pull(app, f"Documents/{_PICTURES}/{fidelity.golden_id}.png", picture):
                with atomic_file(picture_path(out, fidelity.golden_id)) as target:
                    target.write_bytes(picture.read_bytes())
    with atomic_file(out) as target:
        write_contract(target, report)
    return report


def unit_path(out: Path, unit: str) -> Path:
    """Where the report of one run of a comparison lies: ``<stem>-<unit>.json``."""
    return out.with_name(f"{out.stem}-{unit}{out.suffix}")


def compare_units_ios(
    bundle: Path,
    udid: str | None,
    runs: int,
    warmup: int,
    cooldown: float,
    out: Path,
    progress: Progress | None = None,
    settings: IosSettings | None = None,
) -> list[UnitRun]:
    """:func:`bench_ios` with each of :data:`COMPARED_UNITS` for every program, :data:`REST_SECONDS` of rest between two runs.

    A program that cannot run on one unit is what a comparison is to find out: such a run is kept with its problem, and the others
    go on. What hinders every run, such as a device that went away, ends the comparison; finished reports stay.

    Args:
        out: reports go to :func:`unit_path` of it.

    Raises:
        S2PError: as :func:`bench_ios`, but for what the app says is wrong.
    """
    settings, listener = settings or IosSettings(), progress or Silent()
    found: list[UnitRun] = []
    for unit in COMPARED_UNITS:
        if found:
            _rest(listener)
        path = unit_path(out, unit)
        chosen = replace(settings, compute_unit=unit)
        try:
            report = bench_ios(bundle, udid, runs, warmup, cooldown, path, listener, chosen)
        except (AppError, CheckFailed) as error:
            found.append(UnitRun(unit, path, None, str(error)))
        else:
            found.append(UnitRun(unit, path, report, None))
    return found


def _rest(progress: Progress) -> None:
    with progress.stage("letting the device cool down", int(REST_SECONDS)) as advance:
        for _ in range(int(REST_SECONDS)):
            time.sleep(1)
            advance()


def _check_bundle(bundle: Bundle) -> None:
    manifest = bundle.manifest
    if manifest.target not in RUNS:
        others = " or ".join(f"`target={name}`" for name in RUNS)
        raise S2PError(f"{bundle.folder.name} is for {manifest.target}", f"convert with s2p-mobile convert {others}", "target")
    if all(port.name != "step" for port in manifest.unet.inputs):
        raise S2PError(
            f"{bundle.folder.name} is in Apple's layout, whose U-Net takes timesteps",
            "convert with `layout=s2p` to measure it",
            "layout",
        )


def _ensure_app(device: Device, settings: IosSettings) -> str:
    """The identifier of the installed app."""
    if settings.app is not None:
        if settings.app.suffix != ".app" or not settings.app.is_dir():
            raise S2PError(f"{settings.app} is no built app", "give the S2PBenchMain.app that docs/devices.md builds")
        device.install(settings.app)
    wanted = settings.app_identifier
    apps = [
        name
        for name in device.apps()
        if (name == wanted if wanted is not None else name == APP_IDENTIFIER or name.startswith(f"{APP_IDENTIFIER}."))
    ]
    if not apps:
        raise S2PError(
            f"the app {wanted or APP_IDENTIFIER} is not on {device.name}", "build and install it as docs/devices.md says"
        )
    if len(apps) > 1:
        raise S2PError(f"{device.name} has several such apps: {', '.join(sorted(apps))}", "choose with `app_id`", "app_id")
    return apps[0]


def _with_memory_of_its_own(
    device: Device, app: str, name: str, report: BenchReport, settings: IosSettings, progress: Progress, scratch: Path
) -> BenchReport:
    """The report as a second launch completes it; the first one's where that launch fails: its figures stand either way."""
    words = ["--headless", "memory", name, "--out", "report.json", *_loading(settings)]
    with RunningStages(progress) as stages:
        launch = device.launch(app, words, _Listener(stages, 1), settings.limit_seconds)
    if not launch.started or not device.pull(app, "Documents/report.json", scratch / "completed.json"):
        return report
    completed = read_contract(scratch / "completed.json", BenchReport, REPORT_FORMAT, REPORT_VERSION)
    return completed if completed.bundle_sha256 == report.bundle_sha256 and completed.memory.own_launch else report


def _push(device: Device, app: str, bundle: Bundle, name: str, digest: str, progress: Progress) -> None:
    """Copy the bundle unless it is there. A file in its folder, copied last, says that all of it arrived."""
    marker = f"Documents/{name}/.copied"
    with tempfile.TemporaryDirectory() as scratch:
        found, wanted = Path(scratch) / "found", Path(scratch) / "wanted"
        wanted.write_text(digest, encoding="utf-8")
        if device.pull(app, marker, found) and found.read_bytes() == wanted.read_bytes():
            return
        with progress.stage("copying", 1) as advance:
            device.push(app, bundle.folder, f"Documents/{name}")
            device.push(app, wanted, marker)
            advance()


def _words(name: str, runs: int, warmup: int, cooldown: float, settings: IosSettings) -> list[str]:
    words = ["--headless", "run", name, "--out", "report.json", "--pictures", _PICTURES]
    words += ["--runs", str(runs), "--warmup", str(warmup), "--cooldown", str(cooldown)]
    words += ["--minimum", str(settings.minimum_seconds)]
    return words + _loading(settings)


def _loading(settings: IosSettings) -> list[str]:
    """How programs are loaded: the same in every launch."""
    words = ["--compute-unit", settings.compute_unit] if settings.compute_unit is not None else []
    words += ["--release-chunks"] if settings.release_chunks else []
    if settings.stage is not None:
        words.append("--stage" if settings.stage else "--no-stage")
    return words


class _Listener:
    """Understands the app's console: ``s2p phase NAME`` and ``s2p picture MILLISECONDS``. Libraries print lines of their own."""

    def __init__(self, stages: RunningStages, runs: int) -> None:
        self._stages, self._runs, self._pictures = stages, runs, 0

    def __call__(self, line: str) -> None:
        words = line.split()
        if words[:2] == ["s2p", "phase"] and len(words) == 3 and words[2] in _PHASES:
            stage = _PHASES[words[2]]
            self._stages.tell(stage, 0, self._runs if stage == _MEASURED else 1)
        elif words[:2] == ["s2p", "picture"]:
            self._pictures += 1
            self._stages.tell(_MEASURED, self._pictures, max(self._runs, self._pictures))


def _fetch_report(device: Device, app: str, launch: Launch, scratch: Path) -> BenchReport:
    """The report, or the error that the app left instead. A started app has removed those of earlier runs."""
    if not launch.started:
        raise device.refused("start the app", launch.message)
    if device.pull(app, "Documents/report.json", scratch / "report.json"):
        return read_contract(scratch / "report.json", BenchReport, REPORT_FORMAT, REPORT_VERSION)
    if device.pull(app, "Documents/error.txt", scratch / "error.txt"):
        text = " ".join((scratch / "error.txt").read_text(encoding="utf-8", errors="replace").split())
        raise AppError.from_line(text or f"the app on {device.name} failed without a message", "run it with its screen")
    if launch.signal == _OUT_OF_MEMORY:
        raise CheckFailed(
            f"iOS ended the app on {device.name}, most likely because memory ran out",
            "close other apps, or convert a smaller model or one with fewer bits",
        )
    if launch.signal is not None:
        raise CheckFailed(
            f"the app crashed on {device.name} (signal {launch.signal})", "see its crash log in Xcode and report it"
        )
    raise S2PError(f"the app on {device.name} left no report ({launch.message or 'no message'})", "run it with its screen")
