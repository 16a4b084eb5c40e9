"""Is it the training that helps, and which? S2P, serial, parallel and the start alone from one and the same start, and Q-Diffusion.

    python benchmarks/claim.py --work DIR [--rules top5 layer] [--iterations 300] [--accumulate 4] [--count 256] [--seeds 3]
                               [--rows NAME ...] [--out docs/results-claim.md]

For each rule (``top5``: 5% of the layers at 8 bits; ``layer``: widths by layer, of the same average) the start is made once:
widths, activation grids, call weights and AdaRound's soft weights (``DIR/RULE/start.pt``). Every trained row begins from it and gets
the processor time of the s2p row's training: serial and parallel make as many iterations as take that time, by paces that are
measured in turns in one process. Q-Diffusion has the same widths. Picture k of seed set s shows held-out caption k mod 148 from seed
``1000 s + k``, for every row alike, so differences are taken picture by picture; the table gives them with 95% bootstrap intervals.
Everything that is finished lies in DIR, so the command may be stopped and repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from paired_bootstrap import Interval, paired_interval
from result_tables import markdown_table, write_page
from s2p_converters.core.plan import plan_for
from s2p_mobile.demo import CALIBRATION_PROMPTS, HELD_OUT_PROMPTS
from s2p_mobile.judge.evaluation import evaluate, open_evaluation
from s2p_mobile.judge.metrics import METRIC_NAMES
from s2p_mobile.judge.metrics.networks import resolve_networks
from s2p_mobile.judge.metrics.suite import PictureMetrics
from s2p_mobile.quantize.checkpointing import write_checkpoint
from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.latents import LatentDataset, LatentJob, write_latents
from s2p_mobile.quantize.methods import run_method
from s2p_mobile.quantize.preparation.latents import job_latents
from s2p_mobile.quantize.preparation.prepare import prepare
from s2p_mobile.quantize.recipes import Recipe
from s2p_mobile.quantize.student import StudentSpec, build_student, quantized_unet
from s2p_mobile.quantize.training import Trainer, load_state
from s2p_mobile.quantize.training.log import LOG_NAME, read_log
from s2p_mobile.quantize.work import STATE_NAME, fingerprint
from s2p_mobile.quantize.workers import Workers
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.prompts import read_prompts
from s2p_runtime.files import atomic_file, atomic_folder
from s2p_runtime.progress import Silent

RULES: Mapping[str, Mapping[str, Any]] = {
    "top5": {"top": "5%", "bits": 8, "ranking": "fisher"},
    "layer": {"average_bits": 4.06, "candidates": [2, 4, 6, 8], "ranking": "linear"},
}
TRAINED = ("s2p", "serial", "parallel")
ROWS = ("start alone", *TRAINED, "q-diffusion")
COMPARED = ("start alone", "serial", "parallel", "q-diffusion")
"""What the s2p row is held against."""
FIGURES = {"psnr": (2, 1), "lpips": (4, -1)}
"""Figure of a picture -> digits, and 1 where more is better."""


@dataclass(frozen=True)
class Settings:
    """What rows share; the fields with defaults are made smaller for rehearsals.

    Attributes:
        accumulate: micro-batches of 8 pairs in an optimizer step.
        count: pictures of a seed set.
        samples, rounding_iterations: of AdaRound's start.
        factor: published iteration counts of Q-Diffusion are divided by this.
    """

    work: Path
    iterations: int
    accumulate: int
    count: int
    seeds: int
    prompts: int = 512
    samples: int = 1024
    rounding_iterations: int = 1000
    factor: float = 20.0
    steps: int = 25


class Claim:
    """The rows of one rule, in one folder."""

    def __init__(self, settings: Settings, rule: str, model: Model | None = None) -> None:
        self.settings, self.rule, self.folder = settings, rule, settings.work / rule
        self.model = open_model(None) if model is None else model
        self.workers = Workers("cpu")

    def job(self, **training: Any) -> QuantizationJob:
        """The job of this rule, with changes to its training."""
        mine, model = self.settings, self.model
        document = {
            "name": f"claim {self.rule}",
            "description": "row of the comparison from one start",
            "weights": {"bits": 4},
            "mixed": RULES[self.rule],
            "training": {
                "batch": 8,
                "accumulate": mine.accumulate,
                "iterations": mine.iterations,
                "start": {"rounding": "adaround", "samples": mine.samples, "iterations": mine.rounding_iterations},
                **training,
            },
            "baselines": {"factor": mine.factor, "samples": mine.samples},
        }
        plan = plan_for(model.folder / "scheduler", None, mine.steps)
        prompts = tuple(read_prompts(CALIBRATION_PROMPTS)[: mine.prompts])
        latents = mine.work / "latents"
        write_latents(LatentJob(model, plan, prompts, model.guidance, 0), latents, resume=True, progress=Silent())
        return QuantizationJob(
            model, plan, Recipe.model_validate(document), prompts, model.guidance, device="cpu", latents=latents,
            work=self.folder / "start", resume=True,
        )  # fmt: skip

    def latents(self, job: QuantizationJob) -> LatentDataset:
        """The shared set, opened."""
        return job_latents(job, self.folder, self.workers)

    @cached_property
    def start(self) -> StudentSpec:
        """What every trained row begins from; made once."""
        path = self.folder / "start.pt"
        if not path.exists():
            job, began = self.job(), time.process_time()
            spec = prepare(job, self.latents(job), self.workers.device)
            made = replace(spec, weights={name: spec.weights[name] for name in spec.weights})
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as scratch:
                torch.save({"spec": made, "minutes": (time.process_time() - began) / 60}, scratch)
        # A file of this program's own, made a moment or a day ago.
        found: StudentSpec = torch.load(path, weights_only=False)["spec"]
        return found

    def seconds_per_iteration(self) -> dict[str, float]:
        """Median processor seconds of an optimizer step of each pipeline, in turns."""
        path = self.folder / "pace.json"
        if not path.exists():
            samples: dict[str, list[float]] = {pipeline: [] for pipeline in TRAINED}
            for _ in range(3):
                for pipeline in TRAINED:
                    with tempfile.TemporaryDirectory() as folder:
                        trainer = self.trainer(self.job(pipeline=pipeline, iterations=4), Path(folder))
                        trainer.run()
                        # The first iteration fills caches.
                        samples[pipeline] += [line.seconds for line in read_log(Path(folder) / LOG_NAME)][1:]
            write_json(path, {name: statistics.median(values) for name, values in samples.items()})
        pace: dict[str, float] = json.loads(path.read_text("utf-8"))
        return pace

    def iterations(self, pipeline: str) -> int:
        """As many as take the time of the s2p row."""
        if pipeline == "s2p":
            return self.settings.iterations
        pace = self.seconds_per_iteration()
        return max(1, round(self.settings.iterations * pace["s2p"] / pace[pipeline]))

    def trainer(self, job: QuantizationJob, folder: Path) -> Trainer:
        """From the start, or from where it was interrupted."""
        folder.mkdir(parents=True, exist_ok=True)
        trainer = Trainer(job, self.start, self.latents(job), folder, self.workers)
        if (folder / STATE_NAME).exists():
            trainer.restore(load_state(folder / STATE_NAME, fingerprint(job)))
        return trainer

    def make(self, row: str) -> tuple[QuantizationJob, QuantizedUNet, int]:
        """Quantize a row; also its iterations of training."""
        if row == "start alone":
            job = self.job()
            return job, quantized_unet(build_student(job, self.start)), 0
        if row == "q-diffusion":
            job = replace(self.job(), work=None, resume=False, widths=whole_widths(self.start.weight_bits))
            return job, run_method(row, job), 0
        iterations = self.iterations(row)
        job = self.job(pipeline=row, iterations=iterations)
        return job, self.trainer(job, self.folder / f"{slug(row)}.training").run(), iterations

    def checkpoint(self, row: str) -> Path:
        """A row's checkpoint, made when it is not there."""
        folder = self.folder / slug(row)
        if not folder.exists():
            began = time.process_time()
            job, unet, iterations = self.make(row)
            minutes = (time.process_time() - began) / 60
            with atomic_folder(folder) as scratch:
                manifest = write_checkpoint(job, "q-diffusion" if row == "q-diffusion" else "s2p", unet, scratch)
            write_json(
                self.folder / f"{slug(row)}.json",
                {"minutes": minutes, "iterations": iterations, "bits": manifest.average_weight_bits},
            )
        return folder

    def draw(self, row: str, seed_set: int) -> None:
        """Draw and judge a seed set of a row; figures of every picture are kept."""
        path = self.figures(row, seed_set)
        if path.exists():
            return
        captions = read_prompts(HELD_OUT_PROMPTS)
        prompts = [captions[k % len(captions)] for k in range(self.settings.count)]
        source = open_evaluation(self.checkpoint(row), self.model)
        judge = PictureMetrics(METRIC_NAMES, resolve_networks(source.model.folder))
        result = evaluate(source, prompts, seed=1000 * seed_set, cache=self.settings.work / "fp", judge=judge)
        means = {name: value.value for name, value in result.metrics.items()}
        write_json(path, {"means": means, "each": {name: judge.each(name).tolist() for name in FIGURES}})

    def figures(self, row: str, seed_set: int) -> Path:
        """File of a seed set's figures."""
        return self.folder / "figures" / f"{slug(row)}.{self.settings.count}.{seed_set}.json"

    def found(self, row: str) -> list[dict[str, Any]]:
        """Figures of the seed sets that were drawn, of all or none."""
        paths = [self.figures(row, seed_set) for seed_set in range(self.settings.seeds)]
        return [json.loads(path.read_text("utf-8")) for path in paths] if all(path.exists() for path in paths) else []

    def difference(self, figure: str, other: str) -> Interval | None:
        """Of the s2p row less another, per picture."""
        ours, theirs = (self._each(row, figure) for row in ("s2p", other))
        return paired_interval(ours, theirs) if ours and theirs else None

    def _each(self, row: str, figure: str) -> list[NDArray[np.float64]]:
        return [np.asarray(found["each"][figure], np.float64) for found in self.found(row)]


def whole_widths(bits: Mapping[str, int]) -> dict[str, int]:
    """The same widths for a graph with whole shortcuts: of two halves the wider one's."""
    whole = dict(bits)
    for name, width in bits.items():
        parent = name.rsplit(".", 1)[0]
        if parent.endswith(".conv_shortcut"):
            whole[parent] = max(width, whole.get(parent, 0))
    return whole


def slug(row: str) -> str:
    """File name of a row."""
    return row.replace(" ", "-")


def write_json(path: Path, document: object) -> None:
    """Replace a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as scratch:
        scratch.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def table(claims: Sequence[Claim]) -> str:
    """Rows of all rules, means over the seed sets' pictures."""
    heads = ["widths", "row", "FID-to-FP", "LPIPS", "PSNR mean", "PSNR median", "bits a weight", "iterations", "CPU minutes"]
    lines = []
    for claim in claims:
        for row in ROWS:
            found = claim.found(row)
            if not found:
                continue
            facts = json.loads((claim.folder / f"{slug(row)}.json").read_text("utf-8"))
            cells = [
                f"{statistics.mean(values):.{digits}f}"
                if (values := [f["means"][name] for f in found if f["means"][name]])
                else "-"
                for name, digits in (("fid_to_fp", 1), ("lpips", 4), ("psnr_mean", 2), ("psnr", 2))
            ]
            lines.append([claim.rule, row, *cells, f"{facts['bits']:.2f}", str(facts["iterations"]), f"{facts['minutes']:.1f}"])
    return markdown_table(heads, lines)


def differences(claims: Sequence[Claim]) -> str:
    """The s2p row less each other one, with intervals; ``better`` and ``worse`` where they exclude 0."""
    lines = []
    for claim in claims:
        for other in COMPARED:
            cells = [claim.rule, f"s2p less {other}"]
            for figure, (digits, sign) in FIGURES.items():
                interval = claim.difference(figure, other)
                if interval is None:
                    break
                verdict = "open" if not interval.excludes_zero else "better" if interval.mean * sign > 0 else "worse"
                cells.append(f"{interval.words(digits)}, {verdict}")
            else:
                lines.append(cells)
    return markdown_table(["widths", "difference", "PSNR (dB)", "LPIPS"], lines)


def page(claims: Sequence[Claim], command: str) -> str:
    """The page of results."""
    settings = claims[0].settings
    return f"""# What the training is worth, from one start

`{command}`

The start alone, S2P, the serial and the parallel pipeline begin from the same widths, grids, call weights and soft weights of
AdaRound; the three trainings have the same processor time (S2P: {settings.iterations} steps of {8 * settings.accumulate} pairs).
Minutes are those beside the shared start. Q-Diffusion has the same widths. {settings.count} held-out pictures in each of
{settings.seeds} seed sets; every checkpoint is made once (seed 0), so intervals speak of pictures and not of quantizing again.

{table(claims)}

95% intervals by paired bootstrap over the pictures:

{differences(claims)}
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--iterations", type=int, default=300, help="optimizer steps of the s2p row")
    parser.add_argument("--accumulate", type=int, default=4, help="micro-batches of 8 pairs in a step")
    parser.add_argument("--count", type=int, default=256, help="pictures of a seed set")
    parser.add_argument("--seeds", type=int, default=3, help="seed sets")
    parser.add_argument("--out", type=Path, help="Markdown page to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(options.work, options.iterations, options.accumulate, options.count, options.seeds)
    claims = [Claim(settings, rule) for rule in options.rules]
    for claim in claims:
        for row in options.rows:
            for seed_set in range(settings.seeds):
                claim.draw(row, seed_set)
            print(claim.rule, row, "done", flush=True)
    print(table(claims), differences(claims), sep="\n\n")
    if options.out:
        command = (
            f"python benchmarks/claim.py --work DIR --rules {' '.join(options.rules)} --iterations {settings.iterations} "
            f"--accumulate {settings.accumulate} --count {settings.count} --seeds {settings.seeds} --out {options.out}"
        )
        write_page(options.out, page(claims, command))


if __name__ == "__main__":
    main()
