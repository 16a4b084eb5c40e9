"""Measure a bundle on an Android device: copy the C++ runner and the bundle with adb, run, bring the report back."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from s2p_mobile.devices.adb import Adb, find_adb
from s2p_mobile.devices.npu import refuse_chips
from s2p_runtime.bundle import MANIFEST_NAME, Bundle, open_bundle
from s2p_runtime.contract import read_contract, write_contract
from s2p_runtime.errors import CheckFailed, S2PError
from s2p_runtime.files import atomic_file, sha256_file
from s2p_runtime.progress import Progress, RunningStages, Silent
from s2p_runtime.report import REPORT_FORMAT, REPORT_VERSION, BenchReport, EnergySample, picture_path

REMOTE_FOLDER = "/data/local/tmp/s2p-mobile"
"""The place on every Android device where adb may write and run programs."""

REMOTE_REPORT = f"{REMOTE_FOLDER}/report.json"

RUNNER_VARIABLE = "S2P_ANDROID_RUNNER"
"""Environment variable that names the runner where it is not built beside this package."""

BUILT_RUNNER = Path(__file__).resolve().parents[3] / "android_harness" / "build" / "android" / "s2p-bench"
"""Where the preset ``android`` of android_harness builds the runner."""

_CHARGED = "it is being charged"
_POWER_SECONDS = 1.0
_LEAST_MICROAMPERES = 20_000

_STAGES = {
    "waiting": "waiting for the device",
    "loaded": "loading",
    "warmup": "warm-up",
    "image": "measured pictures",
    "fidelity": "golden pictures",
    "memory_pass": "memory pass",
}
"""What the runner tells of, in words. Calls of the U-Net, which come between pictures, are left out."""


@dataclass(frozen=True)
class AndroidSettings:
    """How the device is reached and when it counts as ready.

    Attributes:
        adb: the adb program; absent: the one on PATH.
        runner: the runner built for the device; absent: what ``S2P_ANDROID_RUNNER`` names, or this repository's build.
        allow_charging: measure also while the device is charged; the report then says so.
        wait_seconds: how long to wait for a cool, unplugged device; so long the runner waits once more, as copying warms it, too.
        poll_seconds: pause between two looks at it.
        max_battery_celsius: above this the device is not cool.
        minimum_seconds: duration below which the report calls itself too short.
        release_chunks: of a U-Net in several programs, load and let go of each at every call.
        keep_files: leave the runner and the bundle on the device, so that the next run copies only what changed.
    """

    adb: str | Path | None = None
    runner: Path | None = None
    allow_charging: bool = False
    wait_seconds: float = 900.0
    poll_seconds: float = 10.0
    max_battery_celsius: float = 33.0
    minimum_seconds: float = 60.0
    keep_files: bool = True
    release_chunks: bool = False


@dataclass(frozen=True)
class DeviceState:
    """What Android's services say. None: they do not tell."""

    plugged: bool | None
    battery_level: float | None
    battery_celsius: float | None
    milliwatts: float | None
    thermal_status: int | None
    low_power_mode: bool | None


def open_phone_bundle(folder: Path) -> Bundle:
    """Open a bundle for the engine of runner and app.

    Raises:
        S2PError: it is for another target.
    """
    opened = open_bundle(folder)
    if opened.manifest.target != "executorch":
        raise S2PError(
            f"{folder.name} is for {opened.manifest.target}", "convert with s2p-mobile convert `target=executorch`", "target"
        )
    return opened


def bench_android(
    bundle: Path,
    serial: str | None,
    runs: int,
    warmup: int,
    cooldown: float,
    threads: int | None,
    cores: str | None,
    out: Path,
    progress: Progress | None = None,
    settings: AndroidSettings | None = None,
) -> BenchReport:
    """Measure ``bundle`` on a device; write the report and, beside it, the pictures drawn there as ``STEM-GOLDEN.png``.

    Args:
        bundle: an ExecuTorch bundle.
        serial: of the device; None when there is only one.
        runs: measured pictures.
        warmup: pictures before them.
        cooldown: seconds of rest before each measured picture.
        threads: of the engine; None: it chooses.
        cores: cores to run on, e.g. ``4-7``; None: all.
        out: the report; an existing one is replaced, and so are its pictures.
        progress: told of stages here and on the device.
        settings: see :class:`AndroidSettings`.

    Raises:
        S2PError: no adb, no runner, no (or several) devices, no space, the device went away, a bundle for another target or an NPU.
        CheckFailed: the device did not become cool and unplugged in time, the runner was killed or a check in it failed.
    """
    settings, listener = settings or AndroidSettings(), progress or Silent()
    opened = open_phone_bundle(bundle)
    refuse_chips(opened)
    runner = _find_runner(settings.runner)
    adb = Adb.connect(find_adb(settings.adb), serial)
    wait_until_ready(adb, settings, listener)
    remote_bundle = push_bundle(adb, opened, listener, runner)
    command = [f"{REMOTE_FOLDER}/s2p-bench", remote_bundle, "--out", REMOTE_REPORT]
    command += ["--runs", str(runs), "--warmup", str(warmup), "--cooldown", str(cooldown)]
    command += ["--minimum-seconds", str(settings.minimum_seconds), "--cool", str(settings.wait_seconds)]
    command += ["--threads", str(threads)] if threads is not None else []
    command += ["--cores", cores] if cores is not None else []
    command += ["--release-chunks"] if settings.release_chunks else []
    with _cleaned_up(adb, settings.keep_files):
        before = read_state(adb)
        # The shell's process becomes the runner's, so that the file holds the runner's number.
        with RunningStages(listener) as stages:
            power = _PowerReadings(adb, cooldown > 0)

            def on_line(line: str) -> None:
                event = _pass_on(line, stages)
                if event is not None:
                    power.hear(*event)

            adb.stream(f"echo $$ > {REMOTE_FOLDER}/run.pid && exec {shlex.join(command)}", on_line)
        after = read_state(adb)
        with tempfile.TemporaryDirectory() as scratch:
            adb.pull(REMOTE_REPORT, Path(scratch) / "report.json")
            report = read_contract(Path(scratch) / "report.json", BenchReport, REPORT_FORMAT, REPORT_VERSION)
        pull_pictures(adb, opened, report, REMOTE_REPORT, out)
    report = completed(report, before, after, power.samples)
    with atomic_file(out) as scratch_file:
        write_contract(scratch_file, report)
    return report


def _find_runner(given: Path | None) -> Path:
    runner = given or Path(os.environ.get(RUNNER_VARIABLE) or BUILT_RUNNER)
    if not runner.is_file():
        raise S2PError(f"no Android runner at {runner}", f"build it as docs/devices.md says, or name one in {RUNNER_VARIABLE}")
    return runner


def pull_pictures(adb: Adb, bundle: Bundle, report: BenchReport, remote: str, out: Path) -> None:
    """Bring the pictures of ``report``, which lies at ``remote``, to their places beside ``out``."""
    # The report comes from another machine: only names that the bundle knows become file names here.
    drawn = {fidelity.golden_id for fidelity in report.fidelity}
    for run in bundle.manifest.golden:
        if run.id in drawn:
            with atomic_file(picture_path(out, run.id)) as scratch_file:
                adb.pull(str(picture_path(Path(remote), run.id)), scratch_file)


def read_state(adb: Adb) -> DeviceState:
    """Charger, battery, temperature and power mode of the device."""
    battery = adb.shell("dumpsys battery", check=False)
    thermal = adb.shell("dumpsys thermalservice", check=False)
    power_mode = adb.shell("settings get global low_power", check=False).strip()
    sources = re.findall(r"^\s*(?:AC|USB|Wireless|Dock) powered: (true|false)", battery, re.MULTILINE)
    level, scale = _field(battery, "level"), _field(battery, "scale")
    tenths = _field(battery, "temperature")
    current, voltage = _field(battery, "current now"), _field(battery, "voltage")
    plugged = "true" in sources if sources else None
    power = milliwatts(current, voltage) if plugged is False and current and voltage else None
    status = re.search(r"Thermal Status: (\d+)", thermal)
    return DeviceState(
        plugged=plugged,
        battery_level=level / scale if level is not None and scale else None,
        battery_celsius=tenths / 10 if tenths is not None else None,
        milliwatts=power,
        thermal_status=int(status.group(1)) if status else None,
        low_power_mode={"0": False, "1": True}.get(power_mode),
    )


def milliwatts(current: float, millivolts: float) -> float:
    """Power of a battery, in milliwatts. Android defines microamperes, some makers give milliamperes, of either sign: a phone at work
    draws between 20 mA and 20 A, so the size tells.
    """
    amount = abs(current)
    return (amount / 1000 if amount >= _LEAST_MICROAMPERES else amount) * millivolts / 1000


class _PowerReadings:
    """What Android's battery service says while pictures are measured, for runners that can read no sensor themselves.

    One look at most a second, and only in answer to what the runner tells: it goes on drawing meanwhile. Where it rests behind a
    picture, it is looked at in answer to calls alone.
    """

    def __init__(self, adb: Adb, rests: bool) -> None:
        self._adb = adb
        self._telling = ("call",) if rests else ("image", "call")
        self._begun: float | None = None
        self._looked = -math.inf
        self.samples: tuple[EnergySample, ...] = ()

    def hear(self, event: str, index: int, total: int) -> None:
        """``event`` and its numbers as the runner tells them."""
        now = time.monotonic()
        if event == "loaded" or (event == "warmup" and index + 1 == total):
            self._begun = now
        elif event in ("fidelity", "memory_pass") or (event == "image" and index + 1 == total):
            self._begun = None  # The last measured picture is done: what is drawn now is not what was measured.
        elif self._begun is not None and event in self._telling and now - self._looked >= _POWER_SECONDS:
            self._looked = now
            state = read_state(self._adb)
            if state.milliwatts is not None or state.battery_level is not None:
                seconds = now - self._begun
                sample = EnergySample(seconds=seconds, milliwatts=state.milliwatts, battery_level=state.battery_level)
                self.samples = (*self.samples, sample)


def _field(text: str, name: str) -> int | None:
    match = re.search(rf"^\s*{name}: (-?\d+)\s*$", text, re.MULTILINE)
    return int(match.group(1)) if match else None


def _obstacle(state: DeviceState, settings: AndroidSettings) -> str | None:
    """Why the device is not ready, or None."""
    if state.plugged and not settings.allow_charging:
        return _CHARGED
    if state.thermal_status:
        return f"it is throttled (thermal status {state.thermal_status})"
    if state.battery_celsius is not None and state.battery_celsius > settings.max_battery_celsius:
        return f"its battery has {state.battery_celsius:.0f} C, above {settings.max_battery_celsius:.0f} C"
    return None


def wait_until_ready(adb: Adb, settings: AndroidSettings, progress: Progress) -> None:
    """Wait for a cool, unplugged device.

    Raises:
        CheckFailed: it does not become so in time.
    """
    deadline = time.monotonic() + settings.wait_seconds
    with RunningStages(progress) as stages:
        while (obstacle := _obstacle(read_state(adb), settings)) is not None:
            left = deadline - time.monotonic()
            _refuse_to_wait(adb, obstacle, left)
            stages.tell("waiting for the device", round(settings.wait_seconds - left), round(settings.wait_seconds))
            time.sleep(min(settings.poll_seconds, left))


def _refuse_to_wait(adb: Adb, obstacle: str, left: float) -> None:
    """Raise :class:`CheckFailed` when an obstacle stays: a cable charges the device, or no time is left."""
    if obstacle == _CHARGED and not adb.over_network:
        raise CheckFailed(
            f"device {adb.serial} is charged through its cable",
            "connect with adb over Wi-Fi (adb tcpip 5555, adb connect HOST:5555) and pull the cable, or pass `allow_charging`",
            "allow_charging",
        )
    if left <= 0:
        raise CheckFailed(f"device {adb.serial} is not ready: {obstacle}", "let it rest unplugged and try again")


def push_bundle(adb: Adb, bundle: Bundle, progress: Progress, runner: Path | None = None, unused: Collection[str] = ()) -> str:
    """Copy those files of a bundle and of the runner that the device has not as they are here. Returns the bundle's folder there.

    Args:
        unused: files of the bundle that the device has no use for.
    """
    remote_bundle = f"{REMOTE_FOLDER}/bundles/{sha256_file(bundle.folder / MANIFEST_NAME)[:16]}.s2pmobile"
    files = {name: entry for name, entry in bundle.manifest.files.items() if name not in unused}
    wanted = {f"{remote_bundle}/{name}": (bundle.path(name), entry.sha256) for name, entry in files.items()}
    manifest = bundle.folder / MANIFEST_NAME
    wanted[f"{remote_bundle}/{MANIFEST_NAME}"] = (manifest, sha256_file(manifest))
    remote_runner = f"{REMOTE_FOLDER}/s2p-bench"
    if runner is not None:
        wanted[remote_runner] = (runner, sha256_file(runner))

    folders = sorted({remote.rsplit("/", 1)[0] for remote in wanted})
    adb.shell(f"mkdir -p {shlex.join(folders)}")
    present = _remote_checksums(adb, list(wanted))
    changed = {remote: local for remote, (local, digest) in wanted.items() if present.get(remote) != digest}
    with progress.stage("copying", len(changed)) as advance:
        for remote, local in changed.items():
            adb.push(local, remote)
            advance()
    if runner is not None:
        adb.shell(f"chmod 755 {remote_runner}")
    return remote_bundle


def _remote_checksums(adb: Adb, paths: list[str]) -> dict[str, str]:
    """SHA-256 of those of the files that are on the device."""
    # sha256sum complains about files that are not there and goes on with the others.
    output = adb.shell(f"sha256sum {shlex.join(paths)} 2>/dev/null", check=False)
    pairs = (line.split(maxsplit=1) for line in output.splitlines())
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}


def _pass_on(line: str, stages: RunningStages) -> tuple[str, int, int] | None:
    """An event of the runner: its kind, index and total. None: a library on the device printed a line of its own."""
    try:
        event = json.loads(line)
        kind, index, total = str(event["event"]), int(event["index"]), int(event["total"])
    except (ValueError, KeyError, TypeError):
        return None
    if kind in _STAGES:
        stages.tell(_STAGES[kind], total if kind == "loaded" else index + 1, total)
    return kind, index, total


@contextlib.contextmanager
def _cleaned_up(adb: Adb, keep_files: bool) -> Iterator[None]:
    """Afterwards the runner is not running and what a run leaves is gone, also when the run failed or was interrupted."""
    pid_file = f"{REMOTE_FOLDER}/run.pid"
    leftovers = f"{pid_file} {REMOTE_FOLDER}/report*" if keep_files else REMOTE_FOLDER
    remove = f"rm -rf {leftovers}"
    adb.shell(f"rm -f {pid_file} {REMOTE_FOLDER}/report*")
    try:
        yield
    except BaseException:
        # A device that went away cannot be tidied up; the error that is under way says more than this one would.
        with contextlib.suppress(S2PError):
            adb.shell(f'if [ -f {pid_file} ]; then kill -9 "$(cat {pid_file})" 2>/dev/null; fi; {remove}', check=False)
        raise
    adb.shell(remove, check=False)


def completed(report: BenchReport, before: DeviceState, after: DeviceState, power: Sequence[EnergySample]) -> BenchReport:
    """The report with what Android's services know and a program in adb's shell cannot read.

    Args:
        power: readings from during the measured pictures; what a phone draws before or after says nothing of them.
    """
    missing = dict(report.missing)
    validity = report.validity
    plugged = None if before.plugged is None else bool(before.plugged or after.plugged)
    known = {
        "unplugged": None if plugged is None else not plugged,
        "low_power_mode_off": None if before.low_power_mode is None else not before.low_power_mode,
        "thermal_nominal_at_start": None if before.thermal_status is None else before.thermal_status == 0,
    }
    for name, value in known.items():
        if getattr(validity, name) is None and value is not None:
            validity = validity.model_copy(update={name: value})
            missing.pop(f"validity.{name}", None)
    energy = report.energy
    if all(sample.battery_level is None and sample.milliwatts is None for sample in energy):
        energy = tuple(power)
        for name in ("battery_level", "milliwatts"):
            if any(getattr(sample, name) is not None for sample in energy):
                missing.pop(f"energy.{name}", None)
    return report.model_copy(update={"validity": validity, "energy": energy, "missing": missing})
