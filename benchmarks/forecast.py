"""``quantize --dry-run`` of every method against the real ``quantize``, on the demo model.

    OMP_NUM_THREADS=1 python benchmarks/forecast.py --report docs/results-forecast.md

Both are run as a user runs them, in processes of their own. The recipe is benchmarks/forecast-recipe.yaml, or the one of --recipe:
the default recipe, but with fewer prompts, calls and iterations, so that all methods together take well under an hour. With one
thread the processor time of the real run is what counts, as it is what the forecast foresees then; so other programs on the machine
disturb little. With several threads it is the time on the clock. Peak memory is that of the largest process (ru_maxrss).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from s2p_runtime.bench.probes import Probes

RECIPE = Path(__file__).with_name("forecast-recipe.yaml")
LIMIT = 0.25
MIB = 2**20


@dataclass(frozen=True)
class Row:
    """One method; seconds, bytes."""

    method: str
    forecast: float
    processor: float
    clock: float
    foreseen_memory: int
    memory: int

    def taken(self, threads: int) -> float:
        """What the forecast is held against."""
        return self.processor if threads == 1 else self.clock


@dataclass(frozen=True)
class Run:
    """One command."""

    clock: float
    processor: float
    memory: int


def run(arguments: list[str]) -> Run:
    """A command of ours in a process of its own."""
    program = (
        "import json, resource, sys\n"
        "from s2p_mobile.cli.app import run\n"
        "status = run(sys.argv[1:])\n"
        "usage = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(json.dumps([usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))\n"
        "sys.exit(status)\n"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    clock = time.monotonic() - began
    if done.returncode:
        sys.exit(f"s2p-mobile {' '.join(arguments)} failed: {done.stderr.strip().splitlines()[-1]}")
    processor, memory = json.loads(done.stdout.strip().splitlines()[-1])
    return Run(clock, processor, memory * (1 if sys.platform == "darwin" else 1024))


def measure(method: str, recipe: str) -> Row:
    """Forecast, then run."""
    with tempfile.TemporaryDirectory() as folder:
        common = ["quantize", "--method", method, "--recipe", recipe, "--device", "cpu"]
        figures = Path(folder) / "forecast.json"
        run([*common, "--dry-run", "--json", str(figures)])
        forecast = json.loads(figures.read_text())
        real = run([*common, "--out", str(Path(folder) / "checkpoint")])
    seconds = 3600 * forecast["devices"][0]["hours"]
    return Row(method, seconds, real.processor, real.clock, forecast["memory_bytes"], real.memory)


def report(rows: list[Row], recipe: str, threads: int, note: str) -> str:
    """The results page."""
    device = Probes().device()
    machine = f"{device.soc or platform.processor() or platform.machine()}, {os.cpu_count()} cores, {device.os}"
    shown = recipe if not Path(recipe).is_file() else f"benchmarks/{Path(recipe).name}"
    command = f"OMP_NUM_THREADS={threads} python benchmarks/forecast.py --recipe {shown}"
    lines = [
        "# What `quantize --dry-run` foresees, and what `quantize` takes",
        "",
        f"The demo model, each method with {shown}, on {machine}; {threads} thread{'s' if threads > 1 else ''}, Python "
        f"{platform.python_version()}. Held against the forecast is {'processor time' if threads == 1 else 'time on the clock'}, "
        f"loading of libraries included on both sides. {note}".rstrip(),
        "",
        "| method | foreseen, s | processor time, s | on the clock, s | foreseen / taken | memory foreseen, MiB | peak, MiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        ratio = row.forecast / row.taken(threads)
        memory = f"{row.foreseen_memory / MIB:.0f} | {row.memory / MIB:.0f}"
        lines.append(f"| {row.method} | {row.forecast:.1f} | {row.processor:.1f} | {row.clock:.1f} | {ratio:.2f} | {memory} |")
    return "\n".join([*lines, "", "Repeat:", "", f"    {command}", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", help="all when left out")
    parser.add_argument("--recipe", default=str(RECIPE))
    parser.add_argument("--report", type=Path, metavar="FILE.md")
    parser.add_argument("--rows", type=Path, metavar="FILE.json", help="finished rows, kept for another call")
    parser.add_argument("--note", default="", help="for the report: what else ran on the machine")
    options = parser.parse_args()
    from s2p_mobile.quantize.methods import METHODS

    # As torch counts them, but without loading it here.
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    rows: list[Row] = []
    if options.rows is not None and options.rows.is_file():
        rows = [Row(**row) for row in json.loads(options.rows.read_text())]
    for method in options.methods or METHODS.names:
        if any(row.method == method for row in rows):
            continue
        rows.append(measure(method, options.recipe))
        if options.rows is not None:
            options.rows.write_text(json.dumps([asdict(row) for row in rows], indent=1))
        row = rows[-1]
        print(f"{method}: foreseen {row.forecast:.1f} s, taken {row.taken(threads):.1f} s", file=sys.stderr, flush=True)
    text = report(rows, options.recipe, threads, options.note)
    print(text)
    if options.report is not None:
        options.report.write_text(text, encoding="utf-8")
    return int(any(abs(row.forecast / row.taken(threads) - 1) > LIMIT for row in rows))


if __name__ == "__main__":
    sys.exit(main())
