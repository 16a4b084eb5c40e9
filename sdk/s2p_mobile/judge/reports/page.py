"""The comparison as one HTML file: nothing is loaded from anywhere, and every text of a report is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import chain, groupby

from s2p_mobile.judge.reports.charts import Series, distribution, line_chart, style
from s2p_mobile.judge.reports.entries import Entry, printable
from s2p_mobile.judge.reports.pictures import GoldenPictures, drawn_picture
from s2p_mobile.judge.reports.table import Cell, comparison_notes, full_rows
from s2p_runtime.report import BenchReport

_MOST_SENSORS = 8

_STYLE = "page.css"
"""Beside this module."""


def _text(value: str) -> str:
    return escape(printable(value))


def _list(items: Sequence[str], kind: str) -> str:
    return f'<ul class="{kind}">' + "".join(f"<li>{item}</li>" for item in items) + "</ul>" if items else ""


def render_page(entries: Sequence[Entry], golden: Mapping[tuple[str, str], GoldenPictures]) -> str:
    """The whole page.

    Args:
        golden: pictures of the bundles, see :func:`s2p_mobile.judge.reports.pictures.find_golden_pictures`.
    """
    title = "s2p-mobile: " + ", ".join(_text(entry.label) for entry in entries)
    sections = (
        f"<h1>{title}</h1>",
        _list([_text(note) for note in comparison_notes(entries)], "notes"),
        _table(entries),
        _charts(entries),
        _placement(entries),
        _pictures(entries, golden),
        _missing(entries),
    )
    # The policy forbids every request: the page cannot load anything even if a text got through unescaped.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    style_sheet = files(__package__).joinpath(_STYLE).read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>\n{style_sheet}</style></head>\n<body>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def _cell(cell: Cell) -> str:
    ratio = "" if cell.ratio is None else f'<span class="ratio">{cell.ratio:.2f}x</span>'
    kind = ' class="bad"' if cell.bad else ""
    return f"<td{kind}>{_text(cell.text)}{ratio}</td>"


def _table(entries: Sequence[Entry]) -> str:
    head = "".join(f'<th scope="col">{_text(entry.label)}</th>' for entry in entries)
    body = []
    for section, rows in groupby(full_rows(entries), key=lambda row: row.section):
        body.append(f'<tr class="section"><th colspan="{len(entries) + 1}">{_text(section)}</th></tr>')
        for row in rows:
            cells = "".join(_cell(cell) for cell in row.cells)
            body.append(f'<tr><th scope="row">{_text(row.title)}</th>{cells}</tr>')
    note = "<p>Ratios are to the first report.</p>" if len(entries) > 1 else ""
    return (
        f"<h2>Figures</h2>{note}<div class='wide'><table><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _chart(caption: str, svg: str, series: Sequence[Series], reasons: Sequence[str]) -> str:
    if not svg:
        why = "; ".join(dict.fromkeys(reasons))
        return f'<figure><figcaption>{caption}</figcaption><p class="empty">No readings{": " if why else ""}{why}.</p></figure>'
    keys = []
    for index, one in enumerate(series):
        if one.points:
            colour, dash = style(index)
            line = "dashed" if dash else "solid"
            keys.append(f'<span class="key" style="border-color:{colour};border-top-style:{line}"></span>{_text(one.name)}')
    return f"<figure><figcaption>{caption}</figcaption>{svg}{_list(keys, 'legend')}</figure>"


def _reasons(entries: Sequence[Entry], path: str) -> list[str]:
    return [_text(entry.report.missing[path]) for entry in entries if path in entry.report.missing]


def _temperatures(entries: Sequence[Entry]) -> list[Series]:
    """Every sensor of one report (the hottest eight), or the hottest reading of each of several."""
    if len(entries) > 1:
        return [
            Series(
                entry.label,
                tuple((sample.seconds, max(sample.celsius.values())) for sample in entry.report.thermal if sample.celsius),
            )
            for entry in entries
        ]
    report: BenchReport = entries[0].report
    peaks: dict[str, float] = {}
    for name, value in chain.from_iterable(sample.celsius.items() for sample in report.thermal):
        peaks[name] = max(value, peaks.get(name, value))
    hottest = sorted(peaks, key=lambda name: -peaks[name])[:_MOST_SENSORS]
    return [
        Series(name, tuple((sample.seconds, sample.celsius[name]) for sample in report.thermal if name in sample.celsius))
        for name in hottest
    ]


def _charts(entries: Sequence[Entry]) -> str:
    calls = [distribution(entry.label, list(chain.from_iterable(entry.report.timings_ms.unet_call))) for entry in entries]
    pictures = [distribution(entry.label, entry.report.timings_ms.image) for entry in entries]
    course = [
        Series(entry.label, tuple(enumerate(chain.from_iterable(entry.report.timings_ms.unet_call), 1))) for entry in entries
    ]
    memory = [Series(entry.label, tuple((t, value / 1e6) for t, value in entry.report.memory.samples)) for entry in entries]
    heat = _temperatures(entries)
    power = [
        Series(entry.label, tuple((one.seconds, one.milliwatts) for one in entry.report.energy if one.milliwatts is not None))
        for entry in entries
    ]
    share = "samples at most so long, %"
    charts = [
        _chart("U-Net calls", line_chart(calls, "ms", share, over_time=False), calls, ()),
        _chart("Whole pictures", line_chart(pictures, "ms", share, over_time=False), pictures, ()),
        _chart("U-Net calls in the order in which they ran", line_chart(course, "call", "ms"), course, ()),
        _chart("Memory in the memory pass", line_chart(memory, "s", "MB"), memory, _reasons(entries, "memory.samples")),
        _chart(
            "Temperature" if len(entries) == 1 else "Temperature of the hottest sensor",
            line_chart(heat, "s", "C", y_from_zero=False),
            heat,
            _reasons(entries, "thermal.celsius"),
        ),
        _chart("Power", line_chart(power, "s", "mW"), power, _reasons(entries, "energy.milliwatts")),
    ]
    return f"<h2>Distributions and courses</h2><div class='charts'>{''.join(charts)}</div>"


def _picture(uri: str, caption: str) -> str:
    return f'<figure><img alt="{caption}" src="{uri}"><figcaption>{caption}</figcaption></figure>'


def _pictures(entries: Sequence[Entry], golden: Mapping[tuple[str, str], GoldenPictures]) -> str:
    keys = list(
        dict.fromkeys((entry.report.bundle_sha256, one.golden_id) for entry in entries for one in entry.report.fidelity)
    )
    rows = []
    names = {entry.report.bundle_sha256: entry.report.bundle_name for entry in entries}
    for digest, golden_id in keys:
        bundle = f" of {_text(names[digest])} ({digest[:12]})" if len(names) > 1 else ""
        figures, title = [], f"Golden run {_text(golden_id)}{bundle}"
        known = golden.get((digest, golden_id))
        if known is not None:
            title += f": {_text(known.prompt)} (seed {known.seed})"
            figures += [_picture(known.floating_point, "floating point"), _picture(known.quantized, "golden, quantized")]
        for entry in entries:
            drawn = drawn_picture(entry, golden_id) if entry.report.bundle_sha256 == digest else None
            if drawn is not None:
                figures.append(_picture(drawn, _text(entry.label)))
        if figures:
            rows.append(f"<h3>{title}</h3><div class='pictures'>{''.join(figures)}</div>")
    return "<h2>Pictures</h2>" + "".join(rows) if rows else ""


def _placement(entries: Sequence[Entry]) -> str:
    parts = []
    for entry in entries:
        if entry.placement is not None:
            parts.append(f"<h3>{_text(entry.label)}</h3>{_list([_text(line) for line in entry.placement.lines], 'notes')}")
    return "<h2>Where operators run, and where the rules expect them</h2>" + "".join(parts) if parts else ""


def _missing(entries: Sequence[Entry]) -> str:
    parts = []
    for entry in entries:
        if entry.report.missing:
            items = [f"<code>{_text(path)}</code>: {_text(reason)}" for path, reason in entry.report.missing.items()]
            parts.append(f"<h3>{_text(entry.label)}</h3>{_list(items, 'notes')}")
    return "<h2>Not measured</h2>" + "".join(parts) if parts else ""
