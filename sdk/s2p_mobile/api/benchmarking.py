"""Speed, memory and heat of a bundle, on this machine or on a phone; and reports side by side."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from s2p_mobile.api.progress import ProgressLike, listener

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from s2p_mobile.devices import UnitRun
    from s2p_mobile.judge.reports import Entry
    from s2p_runtime.bundle import Bundle
    from s2p_runtime.progress import Progress
    from s2p_runtime.report import BenchReport


@dataclass(frozen=True)
class _Request:
    """What is measured and how. ``name`` is what follows the colon of ``device``, None when nothing does."""

    bundle: Bundle
    name: str | None
    runs: int
    warmup: int
    cooldown: float
    minimum: float
    threads: int | None
    cores: str | None
    allow_charging: bool
    release_chunks: bool
    compute_unit: str | None
    stage: bool | None
    app_id: str | None
    apk: Path | None
    out: Path
    progress: Progress


def bench(
    bundle: Bundle | str | Path,
    *,
    device: str = "host",
    runs: int = 5,
    warmup: int = 1,
    cooldown: float = 0.0,
    minimum: float = 60.0,
    threads: int | None = None,
    cores: str | None = None,
    allow_charging: bool = False,
    release_chunks: bool = False,
    compute_unit: str | None = None,
    stage: bool | None = None,
    app_id: str | None = None,
    apk: str | Path | None = None,
    out: str | Path | None = None,
    force: bool = False,
    progress: ProgressLike = None,
) -> BenchReport:
    """Measure a bundle: latency, load time, memory, heat, power, and whether it draws its golden pictures.

    Args:
        bundle: opened or its folder.
        device: ``host``, ``android-app``, ``android``, ``ios``, or one of the phones with a colon and its serial number or UDID:
            ``android-app:SERIAL``. ``android-app`` measures with the app, ``android`` with a runner that was built for the phone.
        runs: measured pictures, at least 1.
        warmup: pictures before them.
        cooldown: seconds of rest before each measured picture.
        minimum: seconds below which the report calls itself too short; an iPhone draws until then.
        threads: of the engine, on the host and Android; it chooses when None.
        cores: to run on, such as ``4-7`` or ``0,2``, on the host and Android.
        allow_charging: measure an Android phone although it is charged.
        release_chunks: of a bundle whose U-Net is several programs, load each for every call and let go of it.
        compute_unit: on an iPhone, ``neural-engine``, ``gpu``, ``all`` or ``cpu`` for every program, or ``unet=gpu`` for one; what
            the bundle says when None.
        stage: on an iPhone, load and release each program per picture, or never; by free memory when None.
        app_id: on an iPhone, the identifier of the measuring app; the installed one when None.
        apk: of the measuring app, to install first, with ``android-app``.
        out: report to write as well, with the pictures drawn beside it as ``STEM-GOLDEN.png``.
        force: replace what lies at ``out``.
        progress: see :class:`ProgressEvent`.

    Returns:
        Times in milliseconds, memory in bytes; what could not be measured is None and has its reason in ``missing``.

    Raises:
        S2PError: bad input, no such device, its engine or driver is missing, or ``out`` exists.
        CheckFailed: the run was killed on the device, or the device does not become ready.

    Example:
        >>> s2p_mobile.bench("app.s2pmobile", runs=3).summary_ms["image"].p50
    """
    from s2p_mobile.sources.open_source import as_bundle
    from s2p_runtime.bench import HostSettings
    from s2p_runtime.errors import S2PError
    from s2p_runtime.files import refuse_existing, require_writable

    kind, colon, name = device.partition(":")
    if kind not in _DEVICES or (colon and not name):
        raise S2PError(f"unknown device {device!r}", f"give {', '.join(_DEVICES)}, or a phone as android-app:SERIAL", "device")
    if apk is not None and kind != "android-app":
        raise S2PError("`apk` is an option of android-app", "leave it out, or give `device=android-app`", "apk")
    HostSettings(runs, warmup, cooldown, minimum, threads).check()  # the numbers mean the same everywhere
    if out is not None:
        refuse_existing(Path(out), force)
        require_writable(Path(out))
    with _report_place(out) as place:
        request = _Request(
            as_bundle(bundle), name or None, runs, warmup, cooldown, minimum, threads, cores, allow_charging, release_chunks,
            compute_unit, stage, app_id, None if apk is None else Path(apk), place, listener(progress),
        )  # fmt: skip
        return _DEVICES[kind](request)


@contextlib.contextmanager
def _report_place(out: str | Path | None) -> Iterator[Path]:
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="s2p-mobile-") as scratch:
        yield Path(scratch) / "report.json"


def compare_units(
    bundle: Bundle | str | Path,
    *,
    device: str = "ios",
    runs: int = 5,
    warmup: int = 1,
    cooldown: float = 0.0,
    minimum: float = 60.0,
    release_chunks: bool = False,
    out: str | Path | None = None,
    force: bool = False,
    progress: ProgressLike = None,
) -> list[UnitRun]:
    """Measure a bundle on an iPhone with the Neural Engine, the GPU and all processors, one after the other.

    The phone rests five minutes between two runs. A unit that cannot run the bundle is told with its problem.

    Args:
        bundle: opened or its folder.
        device: ``ios`` or ``ios:UDID``.
        runs, warmup, cooldown, minimum, release_chunks: of each run, as :func:`bench` takes them.
        out: reports to write as well, as ``STEM-neural-engine.json``, ``STEM-gpu.json`` and ``STEM-all.json``, pictures beside them.
        force: replace what lies there.
        progress: see :class:`ProgressEvent`.

    Returns:
        The runs in this order.

    Raises:
        S2PError: bad input, another device than an iPhone, no such device, or a report exists.

    Example:
        >>> {run.unit: run.report.summary_ms["image"].p50 for run in s2p_mobile.compare_units("app.s2pmobile")}
    """
    from s2p_mobile.devices.ios import COMPARED_UNITS, IosSettings, compare_units_ios, unit_path
    from s2p_mobile.sources.open_source import as_bundle
    from s2p_runtime.bench import HostSettings
    from s2p_runtime.errors import S2PError
    from s2p_runtime.files import refuse_existing, require_writable

    kind, colon, name = device.partition(":")
    if kind != "ios" or (colon and not name):
        raise S2PError(f"`compare_units` is an option of ios, not of {device!r}", "give `device=ios`", "compare_units")
    HostSettings(runs, warmup, cooldown, minimum, None).check()
    if out is not None:
        for unit in COMPARED_UNITS:
            refuse_existing(unit_path(Path(out), unit), force)
        require_writable(Path(out))
    with _report_place(out) as place:
        settings = IosSettings(minimum_seconds=minimum, release_chunks=release_chunks)
        return compare_units_ios(
            as_bundle(bundle).folder, name or None, runs, warmup, cooldown, place, listener(progress), settings
        )


def _refuse_unit(request: _Request) -> None:
    from s2p_runtime.errors import S2PError

    for name, given in (("compute_unit", request.compute_unit), ("stage", request.stage), ("app_id", request.app_id)):
        if given is not None:
            raise S2PError(f"`{name}` is an option of ios", "other engines have no such choice, leave it out", name)


def _host(request: _Request) -> BenchReport:
    from s2p_runtime.bench import HostSettings, bench_host, parse_cores
    from s2p_runtime.contract import write_contract
    from s2p_runtime.errors import S2PError
    from s2p_runtime.files import atomic_file
    from s2p_runtime.pictures import save_picture
    from s2p_runtime.report import picture_path

    _refuse_unit(request)
    if request.name is not None:
        raise S2PError(f"the host has no devices such as {request.name!r}", "give `device=host`", "device")
    if request.allow_charging:
        raise S2PError("`allow_charging` is an option of phones", "leave it out for the host", "allow_charging")
    settings = HostSettings(
        runs=request.runs,
        warmup=request.warmup,
        cooldown=request.cooldown,
        minimum=request.minimum,
        threads=request.threads,
        cores=None if request.cores is None else parse_cores(request.cores),
        release_chunks=request.release_chunks,
    )
    pictures: dict[str, NDArray[np.uint8]] = {}
    measured = bench_host(request.bundle, settings, request.progress, pictures.__setitem__)
    for golden_id, picture in pictures.items():
        save_picture(picture_path(request.out, golden_id), picture)
    with atomic_file(request.out) as scratch:
        write_contract(scratch, measured)
    return measured


def _android(request: _Request) -> BenchReport:
    from s2p_mobile.devices import bench_android
    from s2p_mobile.devices.android import AndroidSettings

    _refuse_unit(request)
    settings = AndroidSettings(
        allow_charging=request.allow_charging, minimum_seconds=request.minimum, release_chunks=request.release_chunks
    )
    return bench_android(
        request.bundle.folder, request.name, request.runs, request.warmup, request.cooldown, request.threads, request.cores,
        request.out, request.progress, settings,
    )  # fmt: skip


def _android_app(request: _Request) -> BenchReport:
    from s2p_mobile.devices import bench_android_app
    from s2p_mobile.devices.android import AndroidSettings
    from s2p_mobile.devices.android_app import AppSettings
    from s2p_runtime.errors import S2PError

    _refuse_unit(request)
    if request.cores is not None:
        raise S2PError("`cores` is an option of host and android", "an app cannot choose, leave it out", "cores")
    phone = AndroidSettings(
        allow_charging=request.allow_charging, minimum_seconds=request.minimum, release_chunks=request.release_chunks
    )
    return bench_android_app(
        request.bundle.folder, request.name, request.runs, request.warmup, request.cooldown, request.threads, request.out,
        request.progress, AppSettings(phone, request.apk),
    )  # fmt: skip


def _ios(request: _Request) -> BenchReport:
    from s2p_mobile.devices.ios import IosSettings, bench_ios
    from s2p_runtime.errors import S2PError

    for parameter, given in (("threads", request.threads), ("cores", request.cores)):
        if given is not None:
            raise S2PError(
                f"`{parameter}` is an option of host and android", "Core ML chooses on an iPhone, leave it out", parameter
            )
    if request.allow_charging:
        raise S2PError(
            "`allow_charging` is an option of android",
            "an iPhone is measured either way and the report says so",
            "allow_charging",
        )
    settings = IosSettings(
        minimum_seconds=request.minimum, release_chunks=request.release_chunks, compute_unit=request.compute_unit,
        stage=request.stage, app_identifier=request.app_id,
    )  # fmt: skip
    return bench_ios(
        request.bundle.folder, request.name, request.runs, request.warmup, request.cooldown, request.out, request.progress,
        settings,
    )  # fmt: skip


_DEVICES: dict[str, Callable[[_Request], BenchReport]] = {
    "host": _host,
    "android-app": _android_app,
    "android": _android,
    "ios": _ios,
}


def report(
    reports: Sequence[str | Path],
    *,
    out: str | Path,
    labels: Sequence[str] = (),
    bundles: Sequence[str | Path] = (),
    force: bool = False,
) -> list[Entry]:
    """Compare reports of :func:`bench` in one HTML file with charts and pictures that opens without a network.

    Args:
        reports: files of any harness; ratios are to the first. Or one folder of reports of many devices: the page then has a table to
            each bundle and a row to each device, by chip.
        out: HTML file to write.
        labels: names in the comparison, in order; the files' names when left out.
        bundles: folders that were measured, for their golden pictures and for where their target expects operators to run, which
            each entry's ``placement`` compares; pictures of bundles beside the reports are found.
        force: replace what lies at ``out``.

    Returns:
        The reports under their labels.

    Raises:
        S2PError: a file that is no report, two equal labels, a bundle that no report is about, or ``out`` exists.

    Example:
        >>> s2p_mobile.report(["host.json", "phone.json"], out="compared.html")
    """
    from s2p_mobile.judge.reports import find_golden_pictures, read_entries, read_folder, render_fleet, render_page
    from s2p_runtime.errors import S2PError
    from s2p_runtime.files import atomic_file, refuse_existing

    refuse_existing(Path(out), force)
    if any(Path(path).is_dir() for path in reports):
        if len(reports) > 1 or labels or bundles:
            raise S2PError(
                "a folder of reports stands alone", "give one folder, or files, without `labels` and `bundles`", "reports"
            )
        entries = read_folder(Path(reports[0]))
        with atomic_file(Path(out), force=force) as scratch:
            scratch.write_text(render_fleet(entries), encoding="utf-8")
        return entries
    entries = read_entries([Path(path) for path in reports], labels)
    golden = find_golden_pictures(entries, [Path(folder) for folder in bundles])
    entries = _compare_placement(entries, [Path(folder) for folder in bundles])
    page = render_page(entries, golden)
    with atomic_file(Path(out), force=force) as scratch:
        scratch.write_text(page, encoding="utf-8")
    return entries


def _compare_placement(entries: list[Entry], folders: Sequence[Path]) -> list[Entry]:
    """The entries, each with a comparison where its bundle is given, it tells where operators run, and the target has rules."""
    from s2p_converters.targets.registry import TARGETS
    from s2p_mobile.judge.reports import PlacementComparison, compare_placement
    from s2p_runtime.bundle import MANIFEST_NAME, open_bundle
    from s2p_runtime.errors import S2PError
    from s2p_runtime.files import sha256_file

    for folder in folders:
        digest = sha256_file(folder / MANIFEST_NAME)
        about = [entry.report.bundle_sha256 == digest and bool(entry.report.placement) for entry in entries]
        if not any(about):
            continue
        try:
            opened = open_bundle(folder)
            expected = TARGETS.get(opened.manifest.target).residency(opened)
        except S2PError as error:  # the pictures and figures are worth showing without it
            unknown = PlacementComparison((f"not compared with the rules: {error}",))
            entries = [replace(one, placement=unknown) if flag else one for one, flag in zip(entries, about, strict=True)]
            continue
        if expected is not None:
            entries = [
                replace(one, placement=compare_placement(one.report, expected.placements)) if flag else one
                for one, flag in zip(entries, about, strict=True)
            ]
    return entries
