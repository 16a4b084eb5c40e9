"""Every stage of a quantization at the true size of a model, with small counts: time, memory, and both against the forecast.

    python benchmarks/real_size.py --model sd1 --work /tmp/real            SD v1-4, the default recipe, 512x512
    python benchmarks/real_size.py --model sd1 --recipe w4a8-quick --work /tmp/real
    python benchmarks/real_size.py --model sdxl --recipe w4a8-mixed --size 256x256 --learn scales --work /tmp/real
    python benchmarks/real_size.py --report docs/results-real-size.md --work /tmp/real

The model has the true architecture and random weights: no figure of it is one of fidelity. Counts are small: two prompts, two calls
of the sampler, two iterations; so a stage's memory is that of a real run and its time a small part of it. Time is extrapolated: what
the forecast says of the whole recipe, times what was measured over what the forecast says of the small counts, stage by stage.

A run is one process; a thread reads its resident memory fifty times a second. Results lie in --work as JSON, one file a run. A run
that was interrupted goes on where it stood when it is started again. A stage's time then adds up over both, with what was done twice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

GIB = 2**30
_SECONDS_BETWEEN_LOOKS = 0.02
_SECONDS_BETWEEN_WRITES = 10.0


@dataclass
class StageFigures:
    """One stage as it was measured: seconds on the clock and of the processor, bytes."""

    seconds: float = 0.0
    peak_bytes: int = 0
    processor_seconds: float = 0.0


@dataclass
class Watch:
    """Follows progress and memory.

    Attributes:
        kept: a file that holds the figures so far, for a run that goes on later.
        of: what the figures are of; a run of anything else begins anew.
        stages: by the title that progress announces; what comes before and between stages is under ``-``.
        peak_bytes: of the process, and of those before it that were interrupted.
    """

    kept: Path
    of: dict[str, Any]
    stages: dict[str, StageFigures] = field(default_factory=dict)
    peak_bytes: int = 0
    present: str = "-"
    began: float = field(default_factory=time.perf_counter)
    processor_began: float = field(default_factory=time.process_time)
    written: float = field(default_factory=time.perf_counter)

    def see(self, event: Any) -> None:
        """A progress event."""
        if event.stage != self.present:
            self._change(event.stage)

    def _change(self, stage: str) -> None:
        now, processor = time.perf_counter(), time.process_time()
        figures = self._figures()
        figures.seconds += now - self.began
        figures.processor_seconds += processor - self.processor_began
        self.present, self.began, self.processor_began = stage, now, processor

    def look(self, resident: int) -> None:
        """The process's memory just now."""
        figures = self._figures()
        figures.peak_bytes = max(figures.peak_bytes, resident)
        self.peak_bytes = max(self.peak_bytes, resident)
        if time.perf_counter() - self.written > _SECONDS_BETWEEN_WRITES:
            # A full disk is no reason to look away.
            with contextlib.suppress(OSError):
                self._write()

    def end(self) -> None:
        """Nothing is done any more."""
        self._change("-")
        self._write()

    def go_on(self) -> bool:
        """Begin with the figures of a run of the same that was interrupted, if there is one."""
        if not self.kept.is_file():
            return False
        found = json.loads(self.kept.read_text(encoding="utf-8"))
        if found.get("of") != self.of:
            return False
        self.stages = {title: StageFigures(**figures) for title, figures in found["stages"].items()}
        self.peak_bytes = found["peak_bytes"]
        return True

    def _write(self) -> None:
        self.written = now = time.perf_counter()
        # What the present stage has taken so far is the file's alone: it is added here when the stage ends.
        stages = {title: asdict(figures) for title, figures in list(self.stages.items())}
        present = stages.setdefault(self.present, asdict(StageFigures()))
        present["seconds"] += now - self.began
        present["processor_seconds"] += time.process_time() - self.processor_began
        scratch = self.kept.with_suffix(".scratch")
        document = {"of": self.of, "stages": stages, "peak_bytes": self.peak_bytes}
        scratch.write_text(json.dumps(document), encoding="utf-8")
        scratch.replace(self.kept)

    def _figures(self) -> StageFigures:
        return self.stages.setdefault(self.present, StageFigures())


def small_recipe(options: argparse.Namespace, path: Path) -> Path:
    """The recipe with small counts."""
    from s2p_mobile.quantize.recipes import load_recipe

    document = load_recipe(options.recipe).model_dump(mode="json")
    document["calibration"]["prompts"] = options.prompts
    training = document["training"]
    training |= {"prompts": options.prompts, "iterations": options.iterations, "learn": options.learn or training["learn"]}
    training["loss"]["prompts"] = 1
    training["batch"] = options.batch or training["batch"]
    training["start"] |= {"iterations": options.iterations, "samples": options.samples, "calls": options.samples}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def arguments(options: argparse.Namespace, model: Path, recipe: str, small: bool) -> dict[str, Any]:
    """Of ``s2p_mobile.quantize`` and ``s2p_mobile.forecast``."""
    counts = {"steps": options.steps, "count": options.prompts} if small else {"steps": 25}
    return {
        "model": str(model),
        "recipe": recipe,
        "size": options.size,
        "device": options.device,
        "memory": options.memory,
        **counts,
    }


def foreseen(settings: dict[str, Any]) -> dict[str, Any]:
    """A forecast, from a process of its own."""
    program = "import json, sys, s2p_mobile; print(s2p_mobile.forecast(**json.loads(sys.argv[1])).model_dump_json())"
    done = subprocess.run([sys.executable, "-c", program, json.dumps(settings)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the forecast failed: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure(settings: dict[str, Any], out: Path, kept: Path) -> Watch:
    """Quantize in this process, from where an interrupted one stood."""
    import s2p_mobile
    from s2p_runtime.allocator import give_back_large_blocks
    from s2p_runtime.bench.probes import Probes

    give_back_large_blocks()
    of = {**settings, "recipe": Path(settings["recipe"]).read_text(encoding="utf-8")}
    watch, probes, over = Watch(kept, of), Probes(), threading.Event()
    resume = watch.go_on()

    def look() -> None:
        while not over.wait(_SECONDS_BETWEEN_LOOKS):
            watch.look(probes.resident_bytes() or 0)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        s2p_mobile.quantize(**settings, out=out, force=True, resume=resume, progress=watch.see)
    finally:
        over.set()
        thread.join()
        watch.end()
    return watch


def run(options: argparse.Namespace) -> Path:
    """One row of the report: forecasts and a measured run, kept as JSON."""
    import torch

    from full_size_model import make
    from s2p_runtime.bench.probes import Probes

    options.work.mkdir(parents=True, exist_ok=True)
    model = options.work / options.model
    if not (model / "model_index.json").is_file():
        make(model, options.model, 1.0, whole=True)
    name = f"{options.model}-{options.recipe}{'-' + options.learn if options.learn else ''}-{options.size}-{options.device}"
    recipe = str(small_recipe(options, options.work / f"{name}.yaml"))
    settings = arguments(options, model, recipe, small=True)
    little, whole = foreseen(settings), foreseen(arguments(options, model, _whole_recipe(options, name), small=False))
    kept = options.work / f"{name}.unfinished"
    watch = measure(settings, options.work / f"{name}-checkpoint", kept)
    device = Probes().device()
    threads = torch.get_num_threads()
    result = options.work / f"{name}.json"
    figures = {
        "name": name,
        "machine": f"{device.soc or platform.processor() or platform.machine()}, {os.cpu_count()} cores, {device.os}",
        "threads": threads,
        "plan": little["devices"][0]["plan_words"],
        "stages": {title: asdict(stage) for title, stage in watch.stages.items()},
        "note": options.note,
        "peak_bytes": max(watch.peak_bytes, Probes().peak_bytes() or 0),
        "forecast": little,
        "whole": whole,
    }
    result.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    kept.unlink()
    print("\n".join(lines(figures)))
    return result


def _whole_recipe(options: argparse.Namespace, name: str) -> str:
    """The recipe as it is, but for what it learns."""
    if options.learn is None:
        return str(options.recipe)
    from s2p_mobile.quantize.recipes import load_recipe

    document = load_recipe(options.recipe).model_dump(mode="json")
    document["training"]["learn"] = options.learn
    path = options.work / f"{name}-whole.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return str(path)


def lines(figures: dict[str, Any]) -> list[str]:
    """A run as a table."""
    # With one thread other programs disturb the clock more than the processor's time, which is what the forecast foresees then.
    alone = figures["threads"] == 1 and all(stage.get("processor_seconds") for stage in figures["stages"].values())
    kind, clock = ("processor_seconds", "processor time") if alone else ("seconds", "time on the clock")
    small = {stage["name"]: stage for stage in figures["forecast"]["stages"]}
    whole = {stage["name"]: stage for stage in figures["whole"]["stages"]}
    found = [
        f"## {figures['name']}",
        "",
        f"{figures['machine']}; {figures['threads']} threads, {clock}. Plan: {figures['plan']}.",
        "",
        "| stage | time, s | foreseen, s | memory, GiB | foreseen, GiB | whole recipe here, h |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    if figures.get("note"):
        found[2] += f" {figures['note']}"
    total = 0.0
    for title, stage in figures["stages"].items():
        if title not in small:
            continue
        ratio = stage[kind] / small[title]["seconds"] if small[title]["seconds"] else 1.0
        hours = ratio * whole[title]["seconds"] / 3600 if title in whole else 0.0
        total += hours
        found.append(
            f"| {title} | {stage[kind]:.1f} | {small[title]['seconds']:.1f} | {stage['peak_bytes'] / GIB:.2f} | "
            f"{small[title]['memory_bytes'] / GIB:.2f} | {hours:.1f} |"
        )
    peak, expected = figures["peak_bytes"] or 0, figures["forecast"]["memory_bytes"]
    found += [
        f"| all | {sum(stage[kind] for stage in figures['stages'].values()):.1f} | "
        f"{sum(stage['seconds'] for stage in small.values()):.1f} | {peak / GIB:.2f} | {expected / GIB:.2f} | {total:.1f} |",
        "",
        "Elsewhere, by the forecast of the whole recipe:",
        "",
        "| device | plan | memory, GiB | time, h |",
        "| --- | --- | --- | --- |",
    ]
    for device in figures["whole"]["devices"][1:]:
        fits = "" if device["fits"] else " (does not fit)"
        found.append(
            f"| {device['name']} | {device['plan_words']} | {device['memory_bytes'] / GIB:.1f}{fits} | {device['hours']:.2f} |"
        )
    return [*found, ""]


def report(work: Path) -> str:
    """All runs that lie in a folder."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(work.glob("*.json"))]
    head = [
        "# Real models: time and memory of every stage",
        "",
        "The true architectures with random weights; two prompts, two calls and two iterations, so that every stage runs once as it",
        "does in a real run. `benchmarks/real_size.py` says how the figures are made and extrapolated.",
        "",
    ]
    return "\n".join([*head, *(line for row in rows if "stages" in row for line in lines(row))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("sd1", "sd2", "sdxl"), default="sd1")
    parser.add_argument("--recipe", default="w4a8-mixed")
    parser.add_argument("--learn", choices=("weights", "scales"), help="instead of the recipe's")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", default="auto")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--batch", type=int, help="pairs of an iteration, instead of the recipe's")
    parser.add_argument("--samples", type=int, default=8, help="U-Net calls that the start learns from")
    parser.add_argument("--note", default="", help="for the report: what else ran on the machine")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="only write the runs that lie in --work as a page")
    options = parser.parse_args()
    if options.report is not None:
        options.report.write_text(report(options.work), encoding="utf-8")
        return
    run(options)


if __name__ == "__main__":
    main()
