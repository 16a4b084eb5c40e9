"""``s2p-mobile bench``"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2p_mobile.cli.console import TerminalProgress, emit_json, say
from s2p_mobile.cli.options import ForceOption, JsonOption, ReleaseOption
from s2p_mobile.cli.report import print_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from s2p_runtime.progress import Advance, Progress
    from s2p_runtime.report import BenchReport


@dataclass(frozen=True)
class Request:
    """What is measured and how.

    Attributes:
        name: of the device after the colon, None when there is none.
        allow_charging: measure a phone that is charged.
    """

    bundle: Path
    name: str | None
    runs: int
    warmup: int
    cooldown: float
    minimum: float
    threads: int | None
    cores: str | None
    allow_charging: bool
    release_chunks: bool
    out: Path


_STAGES = {
    "wait": "waiting for the device",
    "push": "copying",
    "loaded": "loading",
    "warmup": "warm-up",
    "image": "measured pictures",
    "memory_pass": "memory pass",
    "fidelity": "golden pictures",
}


class DeviceProgress:
    """Passes on what the drivers of devices tell, (stage, done, total), to a listener that thinks in stages."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._open = progress, contextlib.ExitStack()
        self._stage: str | None = None
        self._advance: Advance | None = None
        self._done = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Calls of the U-Net come between pictures and are left out."""
        if stage == "call":
            return
        if stage != self._stage:
            self.close()
            self._stage, self._done = stage, 0
            self._advance = self._open.enter_context(self._progress.stage(_STAGES.get(stage, stage), max(total, done, 1)))
        assert self._advance is not None
        while self._done < done:
            self._advance()
            self._done += 1

    def close(self) -> None:
        """End the stage that is under way."""
        self._open.close()
        self._stage = None


@contextlib.contextmanager
def _told() -> Iterator[DeviceProgress]:
    listener = DeviceProgress(TerminalProgress())
    try:
        yield listener
    finally:
        listener.close()


def _host(request: Request) -> BenchReport:
    from s2p_runtime.bench import HostSettings, bench_host, parse_cores
    from s2p_runtime.bundle import open_bundle
    from s2p_runtime.contract import write_contract
    from s2p_runtime.errors import S2PError
    from s2p_runtime.files import atomic_file
    from s2p_runtime.pictures import save_picture
    from s2p_runtime.report import picture_path

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
    measured = bench_host(open_bundle(request.bundle), settings, TerminalProgress(), pictures.__setitem__)
    for golden_id, picture in pictures.items():
        save_picture(picture_path(request.out, golden_id), picture)
    with atomic_file(request.out) as scratch:
        write_contract(scratch, measured)
    return measured


def _android(request: Request) -> BenchReport:
    from s2p_mobile.devices import bench_android
    from s2p_mobile.devices.android import AndroidSettings

    settings = AndroidSettings(
        allow_charging=request.allow_charging, minimum_seconds=request.minimum, release_chunks=request.release_chunks
    )
    with _told() as progress:
        return bench_android(
            request.bundle,
            request.name,
            request.runs,
            request.warmup,
            request.cooldown,
            request.threads,
            request.cores,
            request.out,
            progress,
            settings,
        )


def _ios(request: Request) -> BenchReport:
    from s2p_mobile.devices.ios import IosSettings, bench_ios
    from s2p_runtime.errors import S2PError

    for option, given in (("--threads", request.threads), ("--cores", request.cores)):
        if given is not None:
            raise S2PError(f"{option} is an option of host and android", "Core ML chooses on an iPhone, leave it out")
    if request.allow_charging:
        raise S2PError(
            "`allow_charging` is an option of android",
            "an iPhone is measured either way and the report says so",
            "allow_charging",
        )
    settings = IosSettings(minimum_seconds=request.minimum, release_chunks=request.release_chunks)
    with _told() as progress:
        return bench_ios(
            request.bundle, request.name, request.runs, request.warmup, request.cooldown, request.out, progress, settings
        )


DEVICES: dict[str, Callable[[Request], BenchReport]] = {"host": _host, "android": _android, "ios": _ios}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench")(bench)


def bench(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    device: Annotated[str, typer.Option(help="host, android[:SERIAL] or ios[:UDID].")] = "host",
    runs: Annotated[int, typer.Option(min=1, help="Measured pictures.")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Pictures before them.")] = 1,
    cooldown: Annotated[float, typer.Option(min=0, help="Seconds of rest before each measured picture.")] = 0.0,
    minimum: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds below which the report calls itself too short; on iOS pictures are drawn until then."
        ),
    ] = 60.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the engine; it chooses when left out.")] = None,
    cores: Annotated[str | None, typer.Option(metavar="LIST", help="Cores to run on, e.g. 4-7 or 0,2.")] = None,
    allow_charging: Annotated[bool, typer.Option("--allow-charging", help="Measure a phone although it is charged.")] = False,
    release_chunks: ReleaseOption = False,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Report to write.")] = Path("report.json"),
    force: ForceOption = False,
    json: JsonOption = None,
) -> int:
    """Measure a bundle on this machine or on a phone. Exit status 1 when it draws something else than its golden picture."""
    from s2p_mobile.judge.reports import Entry
    from s2p_runtime.errors import S2PError
    from s2p_runtime.files import refuse_existing, require_writable

    kind, colon, name = device.partition(":")
    if kind not in DEVICES or (colon and not name):
        raise S2PError(f"unknown device {device!r}", "give host, android[:SERIAL] or ios[:UDID]")
    refuse_existing(out, force)
    require_writable(out)
    request = Request(
        bundle=bundle,
        name=name or None,
        runs=runs,
        warmup=warmup,
        cooldown=cooldown,
        minimum=minimum,
        threads=threads,
        cores=cores,
        allow_charging=allow_charging,
        release_chunks=release_chunks,
        out=out,
    )
    measured = DEVICES[kind](request)
    print_table([Entry(out.stem, out, measured)], json)
    say(f"report: {out}; next: s2p-mobile report {out}", json)
    emit_json(json, measured.model_dump(mode="json"))
    return 0 if measured.validity.fidelity_ok else 1
