"""``s2p-mobile bench``"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import s2p_mobile
from s2p_mobile.cli.console import emit_json, say
from s2p_mobile.cli.options import ForceOption, JsonOption, ReleaseOption
from s2p_mobile.cli.report import print_table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench")(bench)


def bench(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    device: Annotated[str, typer.Option(help="host, android-app[:SERIAL], android[:SERIAL] or ios[:UDID].")] = "host",
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
    compute_unit: Annotated[
        str | None,
        typer.Option(
            "--compute-unit", metavar="[NAME=]UNIT", help="iOS: neural-engine, gpu, all or cpu for every program, or for one."
        ),
    ] = None,
    compare_units: Annotated[
        bool, typer.Option("--compare-units", help="iOS: one run with neural-engine, gpu and all each, and one table.")
    ] = False,
    stage: Annotated[
        bool | None,
        typer.Option(
            "--stage/--no-stage", help="iOS: load and release each program per picture; by free memory when left out."
        ),
    ] = None,
    app_id: Annotated[
        str | None, typer.Option("--app-id", metavar="ID", help="iOS: the measuring app, where several are installed.")
    ] = None,
    apk: Annotated[Path | None, typer.Option("--apk", metavar="FILE", help="android-app: install this app first.")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Report to write.")] = Path("report.json"),
    force: ForceOption = False,
    json: JsonOption = None,
) -> int:
    """Measure a bundle on this machine or on a phone. Exit status 1 when it draws something else than its golden picture."""
    if compare_units:
        given = {
            "threads": threads,
            "cores": cores,
            "allow_charging": allow_charging or None,
            "compute_unit": compute_unit,
            "stage": stage,
            "app_id": app_id,
            "apk": apk,
        }
        return _compare_units(
            bundle, given, json, device=device, runs=runs, warmup=warmup, cooldown=cooldown, minimum=minimum,
            release_chunks=release_chunks, out=out, force=force, progress=True,
        )  # fmt: skip
    measured = s2p_mobile.bench(
        bundle, device=device, runs=runs, warmup=warmup, cooldown=cooldown, minimum=minimum, threads=threads, cores=cores,
        allow_charging=allow_charging, release_chunks=release_chunks, compute_unit=compute_unit, stage=stage, app_id=app_id, apk=apk,
        out=out, force=force, progress=True,
    )  # fmt: skip

    from s2p_mobile.judge.reports import Entry

    print_table([Entry(out.stem, out, measured)], json)
    say(f"report: {out}; next: s2p-mobile report {out}", json)
    emit_json(json, measured.model_dump(mode="json"))
    return 0 if measured.validity.fidelity_ok else 1


def _compare_units(bundle: Path, given: Mapping[str, object], json: str | None, **settings: Any) -> int:
    """One run a unit and one table; ``given`` are options of single runs, which go with no comparison."""
    from s2p_mobile.judge.reports import Entry, figures
    from s2p_runtime.errors import S2PError

    for name, value in given.items():
        if value is not None:
            raise S2PError(f"`{name}` does not go with `compare_units`", "leave one of them out", name)
    runs = s2p_mobile.compare_units(bundle, **settings)
    entries = [Entry(run.unit, run.path, run.report) for run in runs if run.report is not None]
    if entries:
        print_table(entries, json)
    problems = {run.unit: run.problem for run in runs if run.problem is not None}
    for unit, problem in problems.items():
        say(f"{unit} failed: {problem}", json)
    if entries:
        paths = " ".join(str(entry.path) for entry in entries)
        say(f"next: s2p-mobile report {paths} --bundle {bundle}", json)
    emit_json(json, {**(figures(entries) if entries else {"notes": [], "reports": []}), "problems": problems})
    return 0 if not problems and all(entry.report.validity.fidelity_ok for entry in entries) else 1
