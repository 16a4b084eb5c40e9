"""What a user waits for at the true size of a model: ``convert`` and ``verify`` as whole commands, their time and all their memory.

    python benchmarks/whole_commands.py --model sd1 --work /tmp/whole
    python benchmarks/whole_commands.py --model sdxl --targets coreai --size 256x256 --work /tmp/whole
    python benchmarks/whole_commands.py --report whole-commands.md --work /tmp/whole

The model has the true architecture and random weights: no figure of it is one of fidelity. ``quantize --method rtn`` makes its
checkpoint once, with golden runs of three calls: ``verify`` looks at the first, the middle and the last call of each run, however
many there are. Nothing is kept from one conversion to the next.

Time is on the clock, beside it the processor's, of all processes of a command together. So is memory: the largest sum of their
resident memory, looked at five times a second; what processes share counts in each. Results lie in --work as JSON, one file a
command; a command that has one is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

GIB = 2**30
_SECONDS_BETWEEN_LOOKS = 0.2
_QUANTIZE = ("--method", "rtn", "--recipe", "w4a8", "--steps", "3", "--count", "1", "--device", "cpu")
TARGETS = {
    "coreml": ("--target", "coreml"),
    "coreai": ("--target", "coreai"),
    "executorch": ("--target", "executorch"),
    "qnn": ("--target", "executorch", "--backend", "qnn", "--chunks", "4"),
}
"""Options of ``convert``."""


def measured(command: list[str]) -> dict[str, Any]:
    """Run a command to its end.

    Returns:
        ``seconds``, ``processor_seconds`` and ``peak_bytes`` of it and its processes, ``status``, and its last lines, ``said``.
    """
    began = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8")
    peak, spent = 0, {}
    while process.poll() is None:
        resident = 0
        for each in _family(process):
            try:
                times, memory = each.cpu_times(), each.memory_info().rss
            except psutil.Error:
                continue
            resident += memory
            spent[each.pid] = times.user + times.system
        peak = max(peak, resident)
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    assert process.stdout is not None
    said = process.stdout.read().strip().splitlines()
    return {
        "seconds": time.perf_counter() - began,
        "processor_seconds": sum(spent.values()),
        "peak_bytes": peak,
        "status": process.returncode,
        "said": said[-20:],
    }


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def run(options: argparse.Namespace) -> None:
    """Every command that has no figures yet."""
    from full_size_model import make

    options.work.mkdir(parents=True, exist_ok=True)
    model = options.work / options.model
    if not (model / "model_index.json").is_file():
        make(model, options.model, 1.0, whole=True)
    name = f"{options.model}-{options.size}"
    checkpoint = options.work / f"{name}-checkpoint"
    _command(
        options, f"{name} quantize", ["quantize", str(model), *_QUANTIZE, "--size", options.size, "--out", str(checkpoint)]
    )
    for target in options.targets:
        bundle = options.work / f"{name}-{target}.s2pmobile"
        words = ["convert", str(checkpoint), *TARGETS[target], "--no-cache", "--out", str(bundle)]
        _command(options, f"{name} convert {target}", words)
        _command(options, f"{name} verify {target}", ["verify", str(bundle)])
        if not options.keep:
            shutil.rmtree(bundle, ignore_errors=True)


def _command(options: argparse.Namespace, title: str, words: list[str]) -> None:
    """Run ``s2p-mobile`` and keep its figures.

    Raises:
        SystemExit: it failed.
    """
    kept = options.work / f"{title.replace(' ', '-')}.json"
    if kept.is_file():
        return
    print(f"{title}: s2p-mobile {' '.join(words)}", flush=True)
    figures = measured([sys.executable, "-m", "s2p_mobile", *words])
    if figures["status"]:
        sys.exit("\n".join([f"{title} ended with status {figures['status']}:", *figures["said"]]))
    note = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "note": options.note,
    }
    kept.write_text(json.dumps({"title": title, **figures, **note}, indent=1), encoding="utf-8")
    print(row(figures | {"title": title}), flush=True)


def row(figures: dict[str, Any]) -> str:
    """A line of the table."""
    return (
        f"| {figures['title']} | {figures['seconds']:.0f} | {figures['processor_seconds']:.0f} | "
        f"{figures['peak_bytes'] / GIB:.2f} | {figures.get('note', '')} |"
    )


def report(work: Path) -> str:
    """All commands that were measured in a folder, as a page."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(work.glob("*.json"))]
    rows = [each for each in found if "processor_seconds" in each]
    machines = ", ".join(dict.fromkeys(each["machine"] for each in rows))
    return "\n".join(
        [
            "# Whole commands at the true size",
            "",
            "`convert` and `verify` of the true architectures with random weights, from the checkpoint's folder to the",
            "command's end, with all checks, text encoders and VAE. `benchmarks/whole_commands.py` says how the figures are made.",
            "",
            f"Machine: {machines}.",
            "",
            "| command | time, s | processor, s | memory, GiB | beside it |",
            "| --- | --- | --- | --- | --- |",
            *(row(each) for each in rows),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("sd1", "sd2", "sdxl"), default="sd1")
    parser.add_argument("--size", default="512x512", help="of the pictures")
    parser.add_argument("--targets", nargs="+", choices=tuple(TARGETS), default=["coreml", "coreai", "executorch"])
    parser.add_argument("--keep", action="store_true", help="leave the bundles")
    parser.add_argument("--note", default="", help="for the report: what else ran on the machine")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="only write what was measured in --work as a page")
    options = parser.parse_args()
    if options.report is not None:
        options.report.write_text(report(options.work), encoding="utf-8")
        return
    run(options)


if __name__ == "__main__":
    main()
