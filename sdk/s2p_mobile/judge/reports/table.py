"""The figures of several reports as rows, one column to a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from s2p_mobile.judge.reports.entries import Entry, printable
from s2p_mobile.judge.reports.placement import share_on_engine, work_on_engine
from s2p_runtime.report import BenchReport, Fidelity, Summary

STAGES = {"text_encoder": "text encoder", "unet_call": "U-Net call", "vae_decoder": "VAE decoder", "image": "whole picture"}
STATISTICS = {"p50": "p50", "p90": "p90", "p99": "p99", "trimmed_mean": "trimmed mean"}
COMPACT_STATISTICS = ("p50", "p90")
NONE = "-"


@dataclass(frozen=True)
class Cell:
    """What stands in a column.

    Attributes:
        ratio: to the first report's figure, None where that means nothing.
        bad: the figure says that something is wrong.
    """

    text: str
    ratio: float | None = None
    bad: bool = False


@dataclass(frozen=True)
class Row:
    """A line of the table. ``section`` is the heading that it stands under."""

    section: str
    title: str
    cells: tuple[Cell, ...]


def milliseconds(value: float) -> str:
    """Three figures or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def megabytes(value: float) -> str:
    """Decimal megabytes."""
    return f"{value / 1e6:,.1f}"


def _text_row(section: str, title: str, entries: Sequence[Entry], get: Callable[[BenchReport], str | None]) -> Row:
    values = [get(entry.report) for entry in entries]
    return Row(section, title, tuple(Cell(printable(value) if value else NONE) for value in values))


def _number_row(
    section: str,
    title: str,
    entries: Sequence[Entry],
    get: Callable[[BenchReport], float | None],
    show: Callable[[float], str],
) -> Row:
    """A figure of which twice as much means something."""
    values = [get(entry.report) for entry in entries]
    first = values[0]
    cells = []
    for index, value in enumerate(values):
        ratio = value / first if index and value is not None and first else None
        cells.append(Cell(NONE if value is None else show(value), ratio))
    return Row(section, title, tuple(cells))


def _optional(value: float | None, factor: float, unit: str) -> str | None:
    return None if value is None else f"{value * factor:.1f}{unit}"


def _statistic(report: BenchReport, stage: str, statistic: str) -> float | None:
    summary: Summary | None = report.summary_ms.get(stage)
    return None if summary is None else float(getattr(summary, statistic))


def _backend(report: BenchReport, component: str) -> str | None:
    return report.backend.get(component)


def _load(report: BenchReport, component: str) -> float | None:
    return report.timings_ms.load.get(component)


def total_load(report: BenchReport) -> float | None:
    """Milliseconds to load all components."""
    return sum(report.timings_ms.load.values()) if report.timings_ms.load else None


def memory_growth(report: BenchReport) -> float | None:
    """Peak less baseline, in bytes."""
    memory = report.memory
    if memory.peak_bytes is None or memory.baseline_bytes is None:
        return None
    return memory.peak_bytes - memory.baseline_bytes


def hottest(report: BenchReport) -> float | None:
    """Highest temperature of any sensor."""
    return max((value for sample in report.thermal for value in sample.celsius.values()), default=None)


def heat(report: BenchReport) -> str | None:
    """From what state to what state, and the hottest sensor."""
    states = [sample.state for sample in report.thermal if sample.state is not None]
    course = [] if not states else [states[0]] if states[-1] == states[0] else [f"{states[0]} to {states[-1]}"]
    peak = _optional(hottest(report), 1, " C")
    return ", ".join([*course, *([] if peak is None else [f"up to {peak}"])]) or None


def engine_share(report: BenchReport) -> str | None:
    """``83 % (5 of 6)``; None where the report does not tell."""
    taken, told = share_on_engine(report)
    return f"{taken / told:.0%} ({taken} of {told})".replace("%", " %") if told else None


def engine_work(report: BenchReport) -> str | None:
    """``88 %``: by cost, as a hundred small operators elsewhere may be less than one convolution."""
    share = work_on_engine(report)
    return None if share is None else f"{100 * share:.0f} %"


def loaded_for(report: BenchReport) -> str | None:
    """The compute units of the programs; one word where all have the same."""
    units = report.compute_units
    if len(set(units.values())) <= 1:
        return next(iter(units.values()), None)
    return ", ".join(f"{name} {unit}" for name, unit in units.items())


def _placement_rows(entries: Sequence[Entry]) -> list[Row]:
    """Rows of engines that tell where operators run, where there is one."""
    if not any(entry.report.compute_units or entry.report.placement for entry in entries):
        return []
    return [
        _text_row("Run", "compute units", entries, loaded_for),
        _text_row("Run", "operators on the Neural Engine", entries, engine_share),
        _text_row("Run", "U-Net's work on the Neural Engine", entries, engine_work),
    ]


def mean_power(report: BenchReport) -> float | None:
    """Mean of the power readings, in milliwatts."""
    readings = [sample.milliwatts for sample in report.energy if sample.milliwatts is not None]
    return sum(readings) / len(readings) if readings else None


def _decibels(fidelity: Fidelity | None, psnr: str, difference: str) -> str:
    if fidelity is None or getattr(fidelity, difference) is None:
        return NONE
    value = getattr(fidelity, psnr)
    if value is not None:
        return f"{value:.1f} dB"
    return "equal" if getattr(fidelity, difference) == 0 else "no ratio"


def validity_notes(report: BenchReport) -> list[str]:
    """What makes the figures less than fair, in words."""
    validity, protocol = report.validity, report.protocol
    wrong = {
        "not the golden picture": not validity.fidelity_ok,
        "plugged in": validity.unplugged is False,
        "low-power mode on": validity.low_power_mode_off is False,
        "not cool at the start": validity.thermal_nominal_at_start is False,
        "throttled meanwhile": validity.not_throttled is False,
        "the app was left": validity.foreground is False,
        "the screen was locked": validity.unlocked is False,
        f"measured for less than {protocol.minimum_seconds:g} s": not validity.minimum_duration_met,
    }
    return [note for note, holds in wrong.items() if holds]


def unknown_conditions(report: BenchReport) -> list[str]:
    """Conditions of which the device cannot tell."""
    titles = {"unplugged": "power", "low_power_mode_off": "low-power mode", "thermal_nominal_at_start": "heat at the start"}
    return [title for name, title in titles.items() if getattr(report.validity, name) is None]


def _threads(report: BenchReport) -> str:
    return "chosen by the engine" if report.protocol.threads is None else str(report.protocol.threads)


def comparison_notes(entries: Sequence[Entry]) -> list[str]:
    """Differences between reports that a reader should know of before comparing figures."""
    differing: dict[str, Callable[[BenchReport], str]] = {
        "bundles": lambda report: f"{report.bundle_name} {report.bundle_sha256[:12]}",
        "machines": lambda report: f"{report.device.model}, {report.device.os}",
        "harnesses": lambda report: f"{report.harness} {report.harness_version}",
        "numbers of threads": _threads,
    }
    notes = []
    for what, get in differing.items():
        values = list(dict.fromkeys(printable(get(entry.report)) for entry in entries))
        if len(values) > 1:
            notes.append(f"different {what}: {'; '.join(values)}")
    return notes


def _timing_rows(entries: Sequence[Entry], statistics: Sequence[str]) -> Iterator[Row]:
    for stage, title in STAGES.items():
        for statistic in statistics:
            yield _number_row(
                "Latency",
                f"{title} {STATISTICS[statistic]}, ms",
                entries,
                partial(_statistic, stage=stage, statistic=statistic),
                milliseconds,
            )


def _fidelity_rows(entries: Sequence[Entry]) -> Iterator[Row]:
    ids = list(dict.fromkeys(one.golden_id for entry in entries for one in entry.report.fidelity))
    for golden in ids:
        found = [next((one for one in entry.report.fidelity if one.golden_id == golden), None) for entry in entries]
        for what, psnr, difference in (
            ("latents", "latent_psnr_db", "latent_max_abs"),
            ("picture", "image_psnr_db", "image_max_abs"),
        ):
            bad = [one is not None and not entry.report.validity.fidelity_ok for one, entry in zip(found, entries, strict=True)]
            texts = [_decibels(one, psnr, difference) for one in found]
            cells = tuple(Cell(text, bad=flag) for text, flag in zip(texts, bad, strict=True))
            yield Row("Fidelity (PSNR)", f"{printable(golden)}: {what}", cells)


def _notes_rows(entries: Sequence[Entry]) -> Iterator[Row]:
    notes = [validity_notes(entry.report) for entry in entries]
    yield Row("Validity", "notes", tuple(Cell("; ".join(found) or "none", bad=bool(found)) for found in notes))
    unknown = [unknown_conditions(entry.report) for entry in entries]
    yield Row("Validity", "cannot tell", tuple(Cell(", ".join(found) or NONE) for found in unknown))


def compact_rows(entries: Sequence[Entry]) -> list[Row]:
    """What fits a terminal."""
    return [
        _text_row("Run", "device", entries, lambda report: report.device.model),
        _text_row("Run", "target", entries, lambda report: report.target),
        _text_row("Run", "U-Net runs on", entries, lambda report: report.backend.get("unet")),
        *_placement_rows(entries),
        *_timing_rows(entries, COMPACT_STATISTICS),
        _number_row("Load", "load, all, ms", entries, total_load, milliseconds),
        _number_row("Memory", "peak memory, MB", entries, lambda report: report.memory.peak_bytes, megabytes),
        _number_row("Memory", "growth, MB", entries, memory_growth, megabytes),
        _text_row("Heat and power", "heat", entries, heat),
        *_fidelity_rows(entries),
        *_notes_rows(entries),
    ]


def full_rows(entries: Sequence[Entry]) -> list[Row]:
    """Everything that can stand side by side."""
    components = list(
        dict.fromkeys(name for entry in entries for name in (*entry.report.backend, *entry.report.timings_ms.load))
    )

    def protocol(report: BenchReport) -> str:
        used = report.protocol
        return f"{used.warmup_runs} + {used.runs} pictures, {used.cooldown_seconds:g} s rest, threads: {_threads(report)}"

    return [
        _text_row("Run", "device", entries, lambda report: report.device.model),
        _text_row("Run", "system", entries, lambda report: report.device.os),
        _text_row("Run", "chip", entries, lambda report: report.device.soc),
        _text_row("Run", "cores", entries, lambda report: None if report.device.cores is None else str(report.device.cores)),
        _text_row("Run", "memory", entries, lambda report: _optional(report.device.memory_bytes, 1e-9, " GB")),
        _text_row("Run", "harness", entries, lambda report: f"{report.harness} {report.harness_version}"),
        _text_row("Run", "made", entries, lambda report: report.created),
        _text_row("Run", "bundle", entries, lambda report: f"{report.bundle_name} ({report.bundle_sha256[:12]})"),
        _text_row("Run", "target", entries, lambda report: report.target),
        *(_text_row("Run", f"{name} runs on", entries, partial(_backend, component=name)) for name in components),
        *_placement_rows(entries),
        _text_row("Run", "protocol", entries, protocol),
        *_timing_rows(entries, tuple(STATISTICS)),
        *(_number_row("Load", f"{name}, ms", entries, partial(_load, component=name), milliseconds) for name in components),
        _number_row("Load", "all, ms", entries, total_load, milliseconds),
        _number_row("Memory", "baseline, MB", entries, lambda report: report.memory.baseline_bytes, megabytes),
        _number_row("Memory", "peak, MB", entries, lambda report: report.memory.peak_bytes, megabytes),
        _number_row("Memory", "growth, MB", entries, memory_growth, megabytes),
        _text_row("Memory", "measured as", entries, lambda report: report.memory.method),
        _text_row("Heat and power", "heat", entries, heat),
        _number_row("Heat and power", "mean power, mW", entries, mean_power, lambda value: f"{value:,.0f}"),
        *_fidelity_rows(entries),
        *_notes_rows(entries),
    ]


def figures(entries: Sequence[Entry]) -> dict[str, Any]:
    """The comparison for programs: per report its figures, and the ratio of each median to the first report's."""
    first = entries[0].report
    reports = []
    for entry in entries:
        report = entry.report
        ratios = {}
        for stage in STAGES:
            mine, base = _statistic(report, stage, "p50"), _statistic(first, stage, "p50")
            ratios[stage] = mine / base if mine is not None and base else None
        reports.append(
            {
                "label": entry.label,
                "device": report.device.model,
                "bundle": report.bundle_name,
                "bundle_sha256": report.bundle_sha256,
                "target": report.target,
                "backend": report.backend,
                "compute_units": report.compute_units,
                "operators_on_engine": share_on_engine(report)[0] if report.placement else None,
                "operators_placed": share_on_engine(report)[1] if report.placement else None,
                "unet_work_on_engine": work_on_engine(report),
                "placement": None if entry.placement is None else list(entry.placement.figures),
                "summary_ms": {name: summary.model_dump() for name, summary in report.summary_ms.items()},
                "p50_ratio_to_first": ratios,
                "load_ms": report.timings_ms.load,
                "peak_bytes": report.memory.peak_bytes,
                "growth_bytes": memory_growth(report),
                "fidelity": [one.model_dump() for one in report.fidelity],
                "fidelity_ok": report.validity.fidelity_ok,
                "notes": validity_notes(report),
                "missing": report.missing,
            }
        )
    return {"notes": comparison_notes(entries), "reports": reports}
