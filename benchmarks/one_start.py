"""Rows that begin from one start: S2P, the serial and the parallel pipeline, the start alone; and Q-Diffusion beside them.

For each rule (``top5``: 5% of the layers at 8 bits; ``layer``: widths by layer, of the same average) the start is made once:
widths, activation grids, call weights and AdaRound's soft weights (``DIR/RULE/start.pt``). Every trained row begins from it and gets
the time of the s2p row's training: serial and parallel make as many iterations as take that time, by paces that are measured in
turns in one process. Q-Diffusion has the same widths. Picture k of seed set s shows held-out caption k, in turn, from seed
``1000 s + k``, for every row alike, so differences are taken picture by picture. Everything that is finished lies in DIR, and nothing
of it is done again.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from paired_bootstrap import Interval, paired_interval
from s2p_converters.core.plan import plan_for
from s2p_mobile.judge.evaluation import EvaluationSource, evaluate, open_evaluation
from s2p_mobile.judge.evaluation.cache import SHARD_PROMPTS
from s2p_mobile.judge.metrics import METRIC_NAMES
from s2p_mobile.judge.metrics.networks import resolve_networks
from s2p_mobile.judge.metrics.suite import PictureMetrics
from s2p_mobile.quantize.checkpointing import write_checkpoint
from s2p_mobile.quantize.compute import ComputePlan
from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.latents import LatentDataset, LatentJob, write_latents
from s2p_mobile.quantize.methods import run_method
from s2p_mobile.quantize.preparation.latents import job_latents
from s2p_mobile.quantize.preparation.prepare import prepare
from s2p_mobile.quantize.recipes import Recipe
from s2p_mobile.quantize.student import StudentSpec, build_student, quantized_unet
from s2p_mobile.quantize.training import Trainer, load_state
from s2p_mobile.quantize.training.guard import Guard
from s2p_mobile.quantize.work import STATE_NAME, fingerprint
from s2p_mobile.quantize.workers import Workers
from s2p_mobile.sources.default_prompts import Prompts, calibration_prompts, held_out_prompts
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.torch_artist import TorchArtist
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
STEPS_IN_TURN = 3
FIGURES = {"psnr": (2, 1), "lpips": (4, -1)}
"""Figure of a picture -> digits, and 1 where more is better."""


@dataclass(frozen=True)
class Settings:
    """What rows share; the fields with defaults are made smaller for rehearsals.

    Attributes:
        accumulate: micro-batches in an optimizer step.
        count: pictures of a seed set.
        samples, rounding_iterations: of AdaRound's start.
        factor: published iteration counts of Q-Diffusion are divided by this.
        steps: of the sampling plan.
        batch: pairs of a micro-batch.
        device: where networks run; what rows have the same of is processor time on the CPU and the clock's elsewhere.
        compute: how networks compute there.
        together: pictures drawn at a time; None: as everywhere.
        rounds: of measuring paces, each of a few steps.
        metrics: that a row's pictures are judged by; ``psnr`` and ``lpips`` are among them.
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
    batch: int = 8
    device: str = "cpu"
    compute: ComputePlan = field(default_factory=ComputePlan)
    together: int | None = None
    rounds: int = 3
    metrics: tuple[str, ...] = METRIC_NAMES

    @property
    def pairs(self) -> int:
        """Of an optimizer step."""
        return self.batch * self.accumulate

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds of the time that is shared out."""
        return time.process_time if self.device == "cpu" else time.perf_counter

    @property
    def time(self) -> str:
        """What :attr:`clock` tells, in words."""
        return "processor time" if self.device == "cpu" else "time on the device"


def recipe_of(settings: Settings, rule: str, **training: Any) -> Recipe:
    """The recipe that a rule's rows share, with changes to its training."""
    document = {
        "name": f"claim {rule}",
        "description": "row of the comparison from one start",
        "weights": {"bits": 4},
        "mixed": RULES[rule],
        "training": {
            "batch": settings.batch,
            "accumulate": settings.accumulate,
            "iterations": settings.iterations,
            "start": {"rounding": "adaround", "samples": settings.samples, "iterations": settings.rounding_iterations},
            **training,
        },
        "baselines": {"factor": settings.factor, "samples": settings.samples},
    }
    return Recipe.model_validate(document)


class Claim:
    """The rows of one rule, in one folder."""

    def __init__(self, settings: Settings, rule: str, model: Model | None = None, captions: Prompts | None = None) -> None:
        """
        Args:
            model: the demo model when None.
            captions: that the rows draw; the model's own held-out ones when None.
        """
        self.settings, self.rule, self.folder = settings, rule, settings.work / rule
        self.model = open_model(None) if model is None else model
        self.captions = held_out_prompts(self.model, captions)
        self.workers = Workers(settings.device)
        self._sources: dict[str, EvaluationSource] = {}

    def job(self, **training: Any) -> QuantizationJob:
        """The job of this rule, with changes to its training."""
        mine, model = self.settings, self.model
        plan = plan_for(model.folder / "scheduler", None, mine.steps)
        prompts = calibration_prompts(model, None)[: mine.prompts]
        latents = mine.work / "latents"
        drawn = LatentJob(model, plan, prompts, model.guidance, 0, compute=mine.compute)
        write_latents(drawn, latents, resume=True, progress=Silent(), workers=self.workers)
        return QuantizationJob(
            model, plan, recipe_of(mine, self.rule, **training), prompts, model.guidance, device=mine.device, latents=latents,
            work=self.folder / "start", resume=True, compute=mine.compute,
        )  # fmt: skip

    def latents(self, job: QuantizationJob) -> LatentDataset:
        """The shared set, opened."""
        return job_latents(job, self.folder, self.workers)

    @cached_property
    def start(self) -> StudentSpec:
        """What every trained row begins from; made once."""
        path = self.folder / "start.pt"
        if not path.exists():
            job, began = self.job(), self.settings.clock()
            spec = prepare(job, self.latents(job), self.workers.device)
            made = replace(spec, weights={name: spec.weights[name] for name in spec.weights})
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as scratch:
                torch.save({"spec": made, "minutes": (self.settings.clock() - began) / 60}, scratch)
        # A file of this program's own, made a moment or a day ago.
        found: StudentSpec = torch.load(path, weights_only=False)["spec"]
        return found

    def seconds_per_iteration(self) -> dict[str, float]:
        """Median seconds of an optimizer step of each pipeline, in turns."""
        path = self.folder / "pace.json"
        if not path.exists():
            samples: dict[str, list[float]] = {pipeline: [] for pipeline in TRAINED}
            with tempfile.TemporaryDirectory() as folder:
                steps = self.settings.rounds * STEPS_IN_TURN
                trainers = {
                    pipeline: self.trainer(self.job(pipeline=pipeline, iterations=steps), Path(folder) / pipeline)
                    for pipeline in TRAINED
                }
                for _ in range(self.settings.rounds):
                    for pipeline, trainer in trainers.items():
                        guard = Guard(trainer.rule.guard, [])
                        lines = [trainer._step(guard, False, False)[0] for _ in range(STEPS_IN_TURN)]
                        # The first step of a turn fills caches.
                        samples[pipeline] += [line.seconds for line in lines[1:]]
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
            began = self.settings.clock()
            job, unet, iterations = self.make(row)
            minutes = (self.settings.clock() - began) / 60
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
        prompts = [self.captions[k % len(self.captions)] for k in range(self.settings.count)]
        source = self.source(row)
        judge = PictureMetrics(self.settings.metrics, resolve_networks(source.model.folder, device=source.device))
        together = self.settings.together or SHARD_PROMPTS
        cache = self.settings.work / "fp"
        result = evaluate(source, prompts, seed=1000 * seed_set, cache=cache, judge=judge, together=together)
        means = {name: value.value for name, value in result.metrics.items()}
        write_json(path, {"means": means, "each": {name: judge.each(name).tolist() for name in FIGURES}})

    def source(self, row: str) -> EvaluationSource:
        """A row beside the FP model; opened once for all seed sets."""
        if row not in self._sources:
            source = open_evaluation(self.checkpoint(row), self.model, device=self.settings.device)
            for artist in (source.artist, source.reference):
                if self.settings.together is not None and isinstance(artist, TorchArtist):
                    artist.batch = self.settings.together
            self._sources[row] = source
        return self._sources[row]

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
