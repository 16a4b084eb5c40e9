"""The comparison from one start (``one_start.py``) on the teacher, row after row, so that whatever is finished can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from midsize.counts import Counts
from midsize.journal import Journal
from one_start import Claim, Settings
from s2p_mobile.quantize.compute import ComputePlan
from s2p_mobile.quantize.jobs import make_job
from s2p_mobile.quantize.planning import best_plan, room_of
from s2p_mobile.quantize.recipes import Recipe
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model

ROWS = ("start alone", "s2p", "parallel", "q-diffusion", "serial")
"""In the order of what a short run can do without least."""


@dataclass
class Comparison:
    """Rows of some rules on one model, in one folder."""

    counts: Counts
    model: Path
    folder: Path
    device: torch.device
    rules: Sequence[str]
    journal: Journal

    @cached_property
    def settings(self) -> Settings:
        """What all rows share."""
        counts = self.counts
        return Settings(
            work=self.folder,
            iterations=counts.iterations,
            accumulate=counts.accumulate,
            count=counts.count,
            seeds=counts.seeds,
            prompts=counts.prompts,
            samples=counts.samples,
            rounding_iterations=counts.rounding,
            factor=counts.factor,
            steps=counts.calls,
            batch=counts.pairs,
            device=str(self.device),
            compute=compute_plan(self.opened, counts, self.device),
            together=counts.together,
            rounds=counts.rounds,
            metrics=("fid_to_fp", "lpips", "psnr", "psnr_mean"),
        )

    @cached_property
    def opened(self) -> Model:
        """The teacher, as the product opens any model."""
        return open_model(self.model)

    @cached_property
    def claims(self) -> list[Claim]:
        """One a rule."""
        return [Claim(self.settings, rule, self.opened) for rule in self.rules]

    def make(self) -> None:
        """Every row of a rule is made and drawn once before any is drawn from the next seed set.

        Raises:
            Interrupted, KeyboardInterrupt: stopped; what is finished is kept.
        """
        for claim in self.claims:
            with self.journal.part("FP trajectories"):
                claim.job()
            with self.journal.part(f"{claim.rule}: start"):
                assert claim.start.weight_bits
            with self.journal.part(f"{claim.rule}: pace"):
                claim.seconds_per_iteration()
            for seed_set in range(self.settings.seeds):
                for row in ROWS:
                    self._row(claim, row, seed_set)

    def _row(self, claim: Claim, row: str, seed_set: int) -> None:
        if claim.figures(row, seed_set).exists():
            return
        with self.journal.part(f"{claim.rule}: {row}"):
            claim.checkpoint(row)
        with self.journal.part(f"{claim.rule}: pictures of {row}"):
            claim.draw(row, seed_set)

    def finished(self) -> list[Claim]:
        """Rules of which something can be said, each with the seed sets that all its drawn rows have."""
        found = []
        for claim in self.claims:
            drawn = [sets for row in ROWS if (sets := _sets(claim, row))]
            if drawn:
                found.append(Claim(replace(self.settings, seeds=min(drawn)), claim.rule, self.opened))
        return found


def _sets(claim: Claim, row: str) -> int:
    """Seed sets of a row that are drawn, from the first on."""
    there = [claim.figures(row, seed_set).exists() for seed_set in range(claim.settings.seeds)]
    return [*there, False].index(False)


def compute_plan(model: Model, counts: Counts, device: torch.device) -> ComputePlan:
    """The product's own choice for this device's memory; as many samples go forward together as are drawn together."""
    if device.type == "cpu":
        return ComputePlan()
    document = {"name": "midsize", "description": "for its size", "weights": {"bits": 4}, "training": {"batch": counts.pairs}}
    job = make_job(model, recipe=Recipe.model_validate(document), device=device, steps=counts.calls)
    plan = best_plan(job, "s2p", room_of(device)).compute
    return plan.model_copy(update={"samples": job.branches * counts.together})
