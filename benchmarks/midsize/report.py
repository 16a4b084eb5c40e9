"""What came out, as JSON and as a page: of this teacher, and of those that earlier calls trained on other machines."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path
from typing import Any

import torch

from claim_page import tables
from midsize.comparison import ROWS, Comparison
from midsize.counts import Counts
from midsize.gate import GateResult
from midsize.journal import Journal
from one_start import COMPARED, FIGURES, Claim, slug, write_json
from s2p_converters.core.resources import parameter_count
from s2p_mobile.sources.model import Model
from s2p_runtime.errors import S2PError
from s2p_runtime.files import atomic_file

RESULTS, PAGE = "results.json", "report.md"
_FORMAT = "s2p-midsize"


def read_earlier(path: Path) -> list[dict[str, Any]]:
    """Teachers of an earlier call's results.

    Raises:
        S2PError: not such a file.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["format"] != _FORMAT:
            raise ValueError(f"format {document['format']!r}")
        found: list[dict[str, Any]] = document["teachers"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise S2PError(
            f"{path} holds no results of this program ({error})", f"give the {RESULTS} of an earlier call"
        ) from error
    return found


def device_name(device: torch.device) -> str:
    """As its maker calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def teacher_entry(
    model: Model, counts: Counts, device: torch.device, gate: GateResult, journal: Journal, comparison: Comparison | None
) -> dict[str, Any]:
    """Everything of one teacher."""
    claims = [] if comparison is None else comparison.finished()
    entry: dict[str, Any] = {
        "digest": model.unet_sha256[:16],
        "device": device_name(device),
        "torch": torch.__version__,
        "parameters": {part: parameter_count(model.folder / part) for part in model.weighty_folders},
        "counts": dataclasses.asdict(counts),
        "reached": journal.reached,
        "seconds": journal.seconds,
        "gate": gate.model_dump(mode="json") | {"passed": gate.passed},
        "rules": {claim.rule: _rule(claim) for claim in claims},
    }
    return entry | {"page": _section(entry, gate, claims)}


def _rule(claim: Claim) -> dict[str, Any]:
    rows = {}
    for row in ROWS:
        if sets := claim.found(row):
            facts = json.loads((claim.folder / f"{slug(row)}.json").read_text("utf-8"))
            rows[row] = {**facts, "sets": sets}
    differences = {
        other: {
            figure: dataclasses.asdict(found) for figure in FIGURES if (found := claim.difference(figure, other)) is not None
        }
        for other in COMPARED
    }
    return {"seeds": claim.settings.seeds, "rows": rows, "s2p less": differences}


def _section(entry: dict[str, Any], gate: GateResult, claims: list[Claim]) -> str:
    parts = ", ".join(f"{name} {count / 1e6:.1f}M" for name, count in entry["parameters"].items())
    reached = ", ".join(f"{name} {int(step)} steps, loss {loss:.4f}" for name, (step, loss) in entry["reached"].items())
    seconds = ", ".join(f"{name} {taken:.0f}" for name, taken in entry["seconds"].items())
    lines = [
        f"## Teacher {entry['digest']} on {entry['device']}",
        f"Parameters: {parts}. Training: {reached}.",
        f"Gate {'passed' if gate.passed else 'not passed'}: {gate.words}.",
        f"Seconds: {seconds}.",
    ]
    for claim in claims:
        mine = claim.settings
        sets = f"{mine.seeds} seed sets" if mine.seeds > 1 else "one seed set"
        lines += [
            f"Rule {claim.rule}: {mine.count} held-out pictures in each of {sets}; S2P made {mine.iterations} steps of {mine.pairs} "
            f"pairs, serial and parallel as many as take the same {mine.time}; minutes are beside the shared start.",
            tables([claim]),
        ]
    return "\n\n".join(lines)


def write_report(out: Path, teachers: list[dict[str, Any]]) -> None:
    """``results.json`` and ``report.md``, the newest teacher first."""
    write_json(out / RESULTS, {"format": _FORMAT, "teachers": teachers})
    text = "\n\n".join(["# A mid-size teacher, and the comparison from one start on it", *(each["page"] for each in teachers)])
    with atomic_file(out / PAGE) as scratch:
        scratch.write_text(f"{text}\n", "utf-8")
