"""``python -m midsize --state DIR --out DIR``: train the teacher, pass the gate, make the table; or go on where the last call was."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from demo_model import sheet
from demo_training.state import Clock
from midsize.comparison import Comparison
from midsize.counts import Counts, add_arguments, counts_of
from midsize.gate import GateResult, run_gate
from midsize.journal import Journal
from midsize.report import read_earlier, teacher_entry, write_report
from midsize.teacher import Teacher
from one_start import RULES, write_json
from s2p_mobile.sources.device import choose_device
from s2p_runtime.contract import write_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.files import atomic_file

_AGAIN = 15.0
"""Seconds after which work that did not stop at the limit is asked again, less politely."""
_SAVE_SECONDS = 120.0
_SAVING = 10.0
"""Seconds before the limit at which a training of the teacher stops, so that its state is saved in time."""
_SHOWN = 64
PICTURES = "teacher.png"


@contextmanager
def limit(seconds: float | None) -> Iterator[None]:
    """Interrupt the block, as Ctrl-C does, when it takes longer."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if seconds is None:
        yield
        return
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, max(0.01, seconds), _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def keep_numbers(path: Path, counts: Counts) -> None:
    """Write the numbers of a new state; demand those of an old one. Only seed sets may become more or fewer.

    Raises:
        S2PError: other numbers.
    """
    asked = json.loads(json.dumps(asdict(counts)))
    if path.exists():
        known: dict[str, Any] = json.loads(path.read_text("utf-8"))
        for name, value in asked.items():
            if name != "seeds" and value != known.get(name):
                raise S2PError(
                    f"{path.parent} was made with {name} {known.get(name)}, not {value}", "repeat that, or give another `state`"
                )
    else:
        write_json(path, asked)


def pass_gate(model: Path, counts: Counts, device: torch.device, state: Path, journal: Journal) -> GateResult:
    """The gate's result, of an earlier call where there is one."""
    path = state / "gate.json"
    if not path.exists():
        with journal.part("gate"):
            result, pictures = run_gate(model, counts, device)
        shown = torch.from_numpy(pictures[:_SHOWN]).permute(0, 3, 1, 2) / 127.5 - 1.0
        picture: Image.Image = sheet(shown)
        with atomic_file(state / PICTURES) as scratch:
            picture.save(scratch, format="PNG")
        with atomic_file(path) as scratch:
            write_contract(scratch, result)
        journal.say(result.words)
    return GateResult.model_validate_json(path.read_text("utf-8"))


def run(counts: Counts, options: argparse.Namespace, earlier: list[dict[str, Any]]) -> int:
    """All of it; the exit status: 0 done, 1 the gate was not passed, 3 stopped at the limit."""
    began = time.monotonic()
    state, out, device = options.state, options.out, choose_device(options.device)
    journal = Journal(state)
    keep_numbers(state / "counts.json", counts)
    out.mkdir(parents=True, exist_ok=True)
    gate: GateResult | None = None
    comparison: Comparison | None = None
    teacher: Teacher | None = None
    try:
        with limit(options.limit):
            left = None if options.limit is None else options.limit - (time.monotonic() - began)
            minutes = None if left is None else max(0.0, left - _SAVING) / 60
            clock = Clock(minutes=minutes, save_seconds=_SAVE_SECONDS, on_step=journal.on_step)
            teacher = Teacher(counts, state / "teacher", device, clock, journal)
            model = teacher.make()
            gate = pass_gate(model, counts, device, state, journal)
            if gate.passed:
                comparison = Comparison(counts, model, state / "claim", device, options.rules, journal)
                comparison.make()
        return 0 if gate.passed else 1
    except KeyboardInterrupt:
        journal.say("stopped; the same command goes on from there")
        return 3
    except S2PError as error:
        if error.exit_status != 3:
            raise
        journal.say(f"stopped ({error.problem}); the same command goes on from there")
        return 3
    finally:
        # Whatever happened to one row, what is known of the others is told.
        if teacher is not None and gate is not None:
            opened = Comparison(counts, teacher.model, state / "claim", device, options.rules, journal).opened
            write_report(out, [teacher_entry(opened, counts, device, gate, journal, comparison), *earlier])
            shutil.copyfile(state / PICTURES, out / PICTURES)
        if journal.log.exists():
            shutil.copyfile(journal.log, out / journal.log.name)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m midsize", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="folder for everything that is made; the same one goes on")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results, a few small files")
    parser.add_argument("--device", default="auto", help="auto, cuda, cpu")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=["top5"], help="how bit-widths are shared")
    parser.add_argument("--limit", type=float, help="seconds after which the command stops, with what it has")
    parser.add_argument("--earlier", type=Path, help="results.json of a call whose state is lost: kept in the report")
    add_arguments(parser)
    options = parser.parse_args()
    try:
        earlier = [] if options.earlier is None else read_earlier(options.earlier)
        return run(counts_of(options), options, earlier)
    except S2PError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
