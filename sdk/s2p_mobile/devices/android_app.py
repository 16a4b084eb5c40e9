"""Measure a bundle with the app on an Android phone: install it, copy the bundle, start it over adb, bring the report back.

Nothing is built for ExecuTorch here: the app has the library that its project publishes.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from s2p_mobile.devices.adb import Adb, find_adb
from s2p_mobile.devices.android import (
    AndroidSettings,
    completed,
    open_phone_bundle,
    pull_pictures,
    push_bundle,
    read_state,
    wait_until_ready,
)
from s2p_mobile.devices.npu import phone_chip, with_chip
from s2p_runtime.contract import read_contract, write_contract
from s2p_runtime.errors import CheckFailed, S2PError
from s2p_runtime.files import atomic_file
from s2p_runtime.progress import Progress, RunningStages, Silent
from s2p_runtime.report import REPORT_FORMAT, REPORT_VERSION, BenchReport, Memory

PACKAGE = "mobile.s2p.harness"
ACTIVITY = f"{PACKAGE}/.BenchActivity"
RUNS_FOLDER = f"/sdcard/Android/data/{PACKAGE}/files/runs"
"""Where the app leaves what it measured: its own folder, which adb's shell may read."""
RUN = "adb"
"""Name of the driver's runs below that folder."""

_STAGES = {
    "waiting": "waiting for the device",
    "loaded": "loading",
    "warmup": "warm-up",
    "image": "measured pictures",
    "fidelity": "golden pictures",
    "memory_pass": "memory pass",
}
_NO_MEMORY = "the launch that measures memory ended early ({reason})"


@dataclass(frozen=True)
class AppSettings:
    """How the phone is reached and how the app is run.

    Attributes:
        phone: as for the runner of boards; its ``runner`` is not used.
        apk: installed first; absent: the app must be there.
        poll_seconds: pause between two looks at what the app has done.
        start_seconds: how long the app may take to begin.
    """

    phone: AndroidSettings = field(default_factory=AndroidSettings)
    apk: Path | None = None
    poll_seconds: float = 2.0
    start_seconds: float = 60.0


def bench_android_app(
    bundle: Path,
    serial: str | None,
    runs: int,
    warmup: int,
    cooldown: float,
    threads: int | None,
    out: Path,
    progress: Progress | None = None,
    settings: AppSettings | None = None,
) -> BenchReport:
    """Measure ``bundle`` with the app; write the report and, beside it, the pictures drawn there as ``STEM-GOLDEN.png``.

    The app is launched twice: for the times, and for memory alone.

    Args:
        bundle: an ExecuTorch bundle.
        serial: of the device; None when there is only one.
        runs: measured pictures.
        warmup: pictures before them.
        cooldown: seconds of rest before each measured picture.
        threads: of the engine; None: half the processors.
        out: the report; an existing one is replaced, and so are its pictures.
        progress: told of stages here and on the device.
        settings: see :class:`AppSettings`.

    Raises:
        S2PError: no adb, no (or several) devices, no app, no space, the device went away, a bundle for another target or chip,
            or what the app says.
        CheckFailed: the device did not become cool and unplugged in time, or the app was killed.
    """
    settings, listener = settings or AppSettings(), progress or Silent()
    phone = settings.phone
    opened = open_phone_bundle(bundle)
    adb = Adb.connect(find_adb(phone.adb), serial, "android-app")
    chip = phone_chip(adb, opened)
    _install(adb, settings.apk)
    wait_until_ready(adb, phone, listener)
    remote = push_bundle(adb, opened, listener, unused=opened.manifest.unused_on(chip) if chip is not None else ())
    # What the shell copied belongs to the shell; apps may read it where everybody may.
    adb.shell(f"chmod -R a+rX {shlex.quote(remote)}")
    words = {"bundle": remote, "out": RUN, "runs": runs, "warmup": warmup, "cooldown": cooldown}
    words |= {"minimum": phone.minimum_seconds, "cool": phone.wait_seconds} | ({} if threads is None else {"threads": threads})
    words |= {"release-chunks": 1} if phone.release_chunks else {}
    app = _App(adb, settings, listener)
    with _cleaned_up(adb, remote, phone.keep_files), tempfile.TemporaryDirectory() as scratch:
        before = read_state(adb)
        app.launch(words, "report.json")
        after = read_state(adb)
        adb.pull(f"{RUNS_FOLDER}/{RUN}/report.json", Path(scratch) / "report.json")
        report = read_contract(Path(scratch) / "report.json", BenchReport, REPORT_FORMAT, REPORT_VERSION)
        pull_pictures(adb, opened, report, f"{RUNS_FOLDER}/{RUN}/report.json", out)
        report = _with_memory(report, app, words, Path(scratch))
    report = with_chip(completed(report, before, after, ()), opened, chip)
    with atomic_file(out) as scratch_file:
        write_contract(scratch_file, report)
    return report


def _install(adb: Adb, apk: Path | None) -> None:
    if apk is not None:
        if not apk.is_file():
            raise S2PError(f"no app at {apk}", "build it as docs/devices.md says, or name another file with `apk`", "apk")
        adb.install(apk)
    elif not adb.shell(f"pm path {PACKAGE}", check=False).strip():
        raise S2PError(f"device {adb.serial} has not the app {PACKAGE}", "name its file with `apk`", "apk")


def _with_memory(report: BenchReport, app: _App, words: dict[str, object], scratch: Path) -> BenchReport:
    """The report with what a second launch says of memory; the times are worth reporting without it."""
    try:
        app.launch({**words, "pass": "memory"}, "memory.json")
        app.adb.pull(f"{RUNS_FOLDER}/{RUN}/memory.json", scratch / "memory.json")
        memory = Memory.model_validate_json((scratch / "memory.json").read_text(encoding="utf-8"), strict=True)
    except (CheckFailed, S2PError, ValueError) as error:
        reason = _NO_MEMORY.format(reason=error)
        missing = {path: reason if path.startswith("memory.") else why for path, why in report.missing.items()}
        return report.model_copy(update={"missing": missing})
    missing = {path: why for path, why in report.missing.items() if not path.startswith("memory.")}
    if not memory.samples:
        missing["memory.samples"] = "/proc/self/smaps_rollup cannot be read"
    return report.model_copy(update={"memory": memory, "missing": missing})


class _App:
    """Launches of the app, one at a time."""

    def __init__(self, adb: Adb, settings: AppSettings, progress: Progress) -> None:
        self.adb, self._settings, self._progress = adb, settings, progress

    def launch(self, words: dict[str, object], result: str) -> None:
        """Start it with these words and wait until it has written ``result``.

        Raises:
            S2PError: the app's own line, or it does not start.
            CheckFailed: it is gone without a result.
        """
        folder = f"{RUNS_FOLDER}/{RUN}"
        # A launch of its own: nothing of an earlier one is in memory.
        self.adb.shell(f"am force-stop {PACKAGE}; rm -f {folder}/error.txt {folder}/progress.txt {folder}/{result}")
        extras = [part for name, value in words.items() for part in ("--es", name, str(value))]
        said = self.adb.shell(shlex.join(["am", "start", "-n", ACTIVITY, *extras]))
        if "Error" in said:
            raise S2PError(f"device {self.adb.serial} does not start the app ({_last(said)})", "install the app again")
        with RunningStages(self._progress) as stages:
            self._wait(folder, result, stages)

    def _wait(self, folder: str, result: str, stages: RunningStages) -> None:
        look = (
            f"ls {folder} 2>/dev/null; echo; echo ==; pidof {PACKAGE}; echo; echo ==; "
            f"tail -n 1 {folder}/progress.txt 2>/dev/null; echo; echo ==; cat {folder}/error.txt 2>/dev/null"
        )
        deadline = time.monotonic() + self._settings.start_seconds
        began = False
        while True:
            names, alive, told, error = _parts(self.adb.shell(look, check=False))
            if error:
                raise S2PError.from_line(error, "look at the app on the phone")
            if result in names.split():
                return
            began = began or bool(alive)
            if began and not alive:
                raise CheckFailed(
                    "the app ended on the device without a report, most likely because memory ran out",
                    "close other apps, or convert a smaller model or one with fewer bits",
                )
            if not began and time.monotonic() > deadline:
                raise S2PError(f"the app does not start on device {self.adb.serial}", "unlock the phone and try again")
            _tell(told, stages)
            time.sleep(self._settings.poll_seconds)


def _parts(said: str) -> tuple[str, str, str, str]:
    """Names of files, the process, the last line of progress and the error, with a line ``==`` between them."""
    parts = [part.strip() for part in re.split(r"^==$", said.replace("\r", ""), flags=re.MULTILINE)]
    names, alive, told, error = (*parts, "", "", "", "")[:4]
    return names, alive, told, error


def _tell(line: str, stages: RunningStages) -> None:
    """``image 0 5 812.5``: of the app's progress."""
    words = line.split()
    if len(words) == 4 and words[0] in _STAGES and words[1].isdigit() and words[2].isdigit():
        index, total = int(words[1]), int(words[2])
        stages.tell(_STAGES[words[0]], total if words[0] == "loaded" else min(index + 1, total), total)


def _last(text: str) -> str:
    return [line.strip() for line in text.splitlines() if line.strip()][-1]


@contextlib.contextmanager
def _cleaned_up(adb: Adb, remote: str, keep_files: bool) -> Iterator[None]:
    """Afterwards the app is not running and what a run leaves is gone, also when the run failed or was interrupted."""
    gone = f"rm -rf {RUNS_FOLDER}/{RUN}" + ("" if keep_files else f" {shlex.quote(remote)}")
    # A stopped app may still finish a write behind the first removal, which then finds a folder that is not empty.
    remove = f"am force-stop {PACKAGE}; {gone} || {{ sleep 0.5; {gone}; }}"
    adb.shell(remove, check=False)
    try:
        yield
    except BaseException:
        # A device that went away cannot be tidied up; the error that is under way says more than this one would.
        with contextlib.suppress(S2PError):
            adb.shell(remove, check=False)
        raise
    adb.shell(remove, check=False)
