"""What each part of S2P is worth on the demo model: one table, a row for each recipe.

    python benchmarks/ablation.py --work DIR [--base w4a8-mixed] [--iterations 300] [--count 256] [--rows TEXT ...]
                                 [--out docs/results-ablation.md]

Every row is quantized once (``DIR/<row>``, seed 0) and drawn once for each seed set: picture k of seed set s shows held-out caption
k mod 148 from seed ``1000 s + k``. Main rows have ``--seeds`` sets, the others one. A finished row is a file in ``DIR/figures``, so
the command may be stopped and repeated, also with more rows; what was begun goes on where it was. All rows share one latent set and
one measured sensitivity for each number of steps. The serial and the parallel pipeline get as many iterations as take the time of
the S2P row: the time of an iteration is measured side by side, in turns, in one process. The plot beside ``--out`` shows fidelity
against CPU minutes. ``--rows`` with nothing after it only writes the page; notes in it that were written by hand stay.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ablation_rows import BASES, BUDGET, PROMPTS, Row, merged, rows_of, training
from result_tables import markdown_table, mean_and_spread, write_page
from s2p_converters.core.plan import plan_for
from s2p_mobile.demo import CALIBRATION_PROMPTS, HELD_OUT_PROMPTS
from s2p_mobile.judge.evaluation import EvaluationResult, evaluate, open_evaluation
from s2p_mobile.quantize.checkpointing import write_checkpoint
from s2p_mobile.quantize.latents import LatentJob, write_latents
from s2p_mobile.quantize.methods import QuantizationJob, run_method
from s2p_mobile.quantize.preparation.given_sensitivity import sensitivity_for
from s2p_mobile.quantize.recipes import Recipe
from s2p_mobile.quantize.sensitivity import Sensitivity, measure, write_sensitivity
from s2p_mobile.quantize.sensitivity.measure import TRAJECTORIES
from s2p_mobile.quantize.training.log import LOG_NAME, read_log
from s2p_mobile.quantize.work import STATE_NAME
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.prompts import read_prompts
from s2p_runtime.files import atomic_file, atomic_folder
from s2p_runtime.progress import Silent


class Study:
    """The rows' jobs, checkpoints and figures in one folder."""

    def __init__(self, work: Path, base: str, iterations: int, count: int) -> None:
        self.work, self.base, self.iterations, self.count = work, base, iterations, count
        self.rows = rows_of(base)
        self.model = open_model(None)
        self._pace: dict[str, float] = {}

    def recipe(self, row: Row, iterations: int) -> Recipe:
        """The row's recipe with a training of ``iterations``."""
        return Recipe.model_validate(merged(row.document, training(iterations=iterations)))

    def job(self, row: Row, iterations: int, folder: Path | None) -> QuantizationJob:
        """The row's job on the shared latent set."""
        plan = plan_for(self.model.folder / "scheduler", None, row.steps)
        prompts = tuple(read_prompts(CALIBRATION_PROMPTS)[:PROMPTS])
        latents = self.work / f"latents-{row.steps}"
        wanted = LatentJob(self.model, plan, prompts, self.model.guidance, 0)
        if row.method != "rtn":
            write_latents(wanted, latents, resume=True, progress=Silent())
        job = QuantizationJob(
            self.model, plan, self.recipe(row, iterations), prompts, self.model.guidance,
            device="cpu", work=folder, resume=True, latents=latents,
        )  # fmt: skip
        return replace(job, sensitivity=self.sensitivity(job)[0]) if row.ranking else job

    def sensitivity(self, job: QuantizationJob) -> tuple[Sensitivity, float]:
        """The layers' sensitivity under the job's plan, measured once, and its CPU minutes."""
        path = self.work / f"sensitivity-{job.plan.steps}.json"
        minutes = path.with_suffix(".minutes")
        if not path.exists():
            rule, began = BUDGET["mixed"], time.process_time()
            found = measure(
                job.model, job.plan, job.prompts[:TRAJECTORIES], job.guidance, rule["ranking"], bits=rule["candidates"]
            )
            _write(minutes, (time.process_time() - began) / 60)
            write_sensitivity(path, found)
        return sensitivity_for(job, path), float(minutes.read_text("utf-8"))

    def seconds_per_iteration(self, pipeline: str) -> float:
        """Median over turns of six iterations of each pipeline."""
        if not self._pace:
            rows = [row for row in self.rows if row.name in ("s2p", "serial, equal time", "parallel, equal time")]
            samples: dict[str, list[float]] = {row.pipeline: [] for row in rows}
            for _ in range(3):
                for row in rows:
                    with tempfile.TemporaryDirectory() as folder:
                        # How a training starts does not change how long an iteration takes.
                        quick = training(start={"rounding": "nearest"}, loss={"calls": "uniform"})
                        quick = merged(row.changes, quick) | {"mixed": None}  # ranks no layers
                        run_method("s2p", self.job(replace(row, changes=quick), 6, Path(folder)))
                        # The first iteration fills caches.
                        samples[row.pipeline] += [line.seconds for line in read_log(Path(folder) / LOG_NAME)][1:]
            self._pace = {name: statistics.median(values) for name, values in samples.items()}
        return self._pace[pipeline]

    def quantize(self, row: Row) -> Path:
        """The row's checkpoint; made when it is not there."""
        checkpoint = self.work / row.slug
        if checkpoint.exists():
            return checkpoint
        iterations = row.iterations or self.iterations
        if row.pipeline != "s2p":
            ratio = self.seconds_per_iteration("s2p") / self.seconds_per_iteration(row.pipeline)
            iterations = max(1, round(iterations * ratio))
        place = self.work / f"{row.slug}.training" if row.method == "s2p" else None
        job = self.job(row, iterations, place)
        # Time spent before an interruption is not known.
        whole = place is None or not (place / STATE_NAME).exists()
        began = time.process_time()
        unet = run_method(row.method, job)
        with atomic_folder(checkpoint) as folder:
            manifest = write_checkpoint(job, row.method, unet, folder)
        ranking = self.sensitivity(job)[1] if row.ranking else 0.0
        facts = {
            "minutes": (time.process_time() - began) / 60 + ranking if whole else None,
            "iterations": iterations if row.method == "s2p" else 0,
            "bits": manifest.average_weight_bits,
        }
        _write(self.figures(row, "training"), facts)
        return checkpoint

    def figures(self, row: Row, part: str) -> Path:
        """File of a row's figures."""
        return self.work / "figures" / f"{row.slug}.{part}.json"

    def facts(self, row: Row) -> dict[str, Any]:
        """Minutes, iterations and average bits of a row that has figures."""
        facts: dict[str, Any] = json.loads(self.figures(row, "training").read_text("utf-8"))
        return facts

    def measure(self, row: Row, seed_set: int) -> None:
        """Draw and judge one seed set of a row, unless that was done."""
        path = self.figures(row, f"{self.count}.{seed_set}")
        if path.exists():
            return
        checkpoint = self.quantize(row)
        captions = read_prompts(HELD_OUT_PROMPTS)
        prompts = [captions[k % len(captions)] for k in range(self.count)]
        result = evaluate(open_evaluation(checkpoint), prompts, seed=1000 * seed_set, cache=self.work / "fp")
        _write(path, result.model_dump(mode="json"))

    def results(self, row: Row, seeds: int) -> list[EvaluationResult]:
        """What is there of a row."""
        paths = [self.figures(row, f"{self.count}.{k}") for k in range(seeds)]
        return [EvaluationResult.model_validate_json(path.read_text("utf-8")) for path in paths if path.exists()]


def _write(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as scratch:
        scratch.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


COLUMNS = {"fid_to_fp": 1, "sfid_to_fp": 1, "ssim": 3, "lpips": 4, "psnr": 1, "psnr_mean": 1, "clip_score": 2}


def table(study: Study, rows: Sequence[Row], seeds: int) -> str:
    """Markdown table of the rows measured so far; a spread over seed sets is the standard deviation."""
    heads = ["row", "FID-to-FP", "sFID", "SSIM", "LPIPS", "PSNR median", "PSNR mean", "CLIP", "latent dB, last call"]
    heads += ["seed sets", "bits a weight", "iterations", "CPU minutes"]
    lines = []
    for row in rows:
        results = study.results(row, seeds if row.main else 1)
        if not results:
            continue
        facts = study.facts(row)
        cells = [row.name]
        cells += [mean_and_spread([r.metrics[name].value for r in results], digits) for name, digits in COLUMNS.items()]
        cells.append(mean_and_spread([r.latent_psnr_db_per_call[-1] for r in results], 1))
        minutes = "-" if facts["minutes"] is None else f"{facts['minutes']:.1f}"
        cells += [str(len(results)), f"{facts['bits']:.2f}", str(facts["iterations"] or "-"), minutes]
        lines.append(cells)
    return markdown_table(heads, lines)


def plot(study: Study, rows: Sequence[Row], seeds: int, path: Path) -> None:
    """Fidelity against CPU minutes: the rows at the base's widths and steps; what differs in length alone is joined by a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    shown = [row for row in rows if row.steps == 25 and "weights" not in row.changes]
    for axis, metric, label in zip(axes, ("psnr", "fid_to_fp"), ("PSNR, median (dB)", "FID-to-FP"), strict=True):
        lengths: list[tuple[float, float]] = []
        axis.set_prop_cycle(color=matplotlib.color_sequences["tab20"])
        for row in shown:
            values = [r.metrics[metric].value for r in study.results(row, seeds if row.main else 1)]
            known = [value for value in values if value is not None]
            minutes = study.facts(row)["minutes"] if known else None
            if minutes is None:
                continue
            point = (minutes, statistics.mean(known))
            axis.plot(*point, "o", label=row.name)
            if row.method in ("s2p", "gptq") and not row.changes:  # gptq is s2p's start
                lengths.append(point)
        axis.plot([x for x, _ in sorted(lengths)], [y for _, y in sorted(lengths)], color="gray", zorder=0)
        axis.set(xlabel="CPU minutes of quantizing", ylabel=label, xscale="log")
        axis.set_xticks((0.5, 1, 2, 5, 10, 20), ("0.5", "1", "2", "5", "10", "20"))
        axis.minorticks_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def page(study: Study, rows: Sequence[Row], seeds: int, command: str, picture: str) -> str:
    """The page of results."""
    first = next((r for row in rows for r in study.results(row, seeds)), None)
    networks = sorted({m.network for m in first.metrics.values() if m.network}) if first else []
    return f"""# Ablation on the demo model

`{command}`

{study.count} pictures of held-out captions a row and seed set (148 captions, each drawn from several seeds), guidance 4, DDIM,
25 steps where the row names no other. Networks behind the figures: {", ".join(networks)}. CPU minutes are processor time of
quantizing, without the shared latent set. Machine: {platform.machine()}, {os.cpu_count()} cores, one thread. FID of so few
pictures is biased upwards alike in every row: compare rows, not papers.

Rows change `{study.base}`, with fewer iterations, symmetric activations, whole shortcuts and GPTQ's weights to start from (`gptq`).
`w4a8-mixed` shares an average width among all layers; `5% at 8 bits` is the paper's rule of the same average (`w4a8-top5`).

{table(study, rows, seeds)}

![Fidelity against CPU minutes]({picture})

The line joins what differs in the length of training alone, from 0 iterations (gptq) on.
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, pictures and figures")
    parser.add_argument(
        "--base", choices=BASES, default="w4a8-mixed", help="recipe that rows change; a folder of its own for each"
    )
    parser.add_argument("--iterations", type=int, default=300, help="of every training but serial and parallel")
    parser.add_argument("--count", type=int, default=256, help="pictures a seed set")
    parser.add_argument("--seeds", type=int, default=3, help="seed sets of the main rows")
    parser.add_argument("--rows", nargs="*", help="only rows whose name is one of these")
    parser.add_argument("--out", type=Path, help="Markdown page to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    study = Study(options.work, options.base, options.iterations, options.count)
    rows = [row for row in study.rows if options.rows is None or row.name in options.rows]
    for row in [*(replace(row, main=False) for row in rows), *(row for row in rows if row.main)]:
        for seed_set in range(options.seeds if row.main else 1):
            study.measure(row, seed_set)
        print(row.name, *table(study, [row], options.seeds).splitlines()[2:], flush=True)
    if options.out is None:
        print(table(study, study.rows, options.seeds))
        return
    command = (
        f"python benchmarks/ablation.py --work DIR --base {options.base} --iterations {options.iterations} --count {options.count} "
        f"--seeds {options.seeds} --out {options.out}"
    )
    picture = options.out.with_suffix(".png")
    plot(study, study.rows, options.seeds, picture)
    write_page(options.out, page(study, study.rows, options.seeds, command, picture.name))


if __name__ == "__main__":
    main()
