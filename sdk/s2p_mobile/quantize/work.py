"""The folder beside a checkpoint in which a method keeps what an interrupted run need not do again: latents, finished parts of the
work, a training's state, its log and its loss plot."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s2p_mobile.quantize.finished import NOTHING_KEPT, FinishedParts
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.workers import Workers
from s2p_runtime.errors import S2PError

STATE_NAME = "state"
LATENTS_FOLDER = "latents"
PARTS_FOLDER = "parts"
"""Finished parts of what comes before training."""
PLAN_NAME = "compute.json"
"""How the job's networks lie in memory, so that a run that goes on computes as it began."""
_VERSION = 1


def work_folder(checkpoint: Path) -> Path:
    """``OUT.training`` for the checkpoint ``OUT``."""
    return checkpoint.parent / f"{checkpoint.name}.training"


@contextlib.contextmanager
def working_folder(job: QuantizationJob, workers: Workers) -> Iterator[Path]:
    """The job's own work folder, or a temporary one where it names none.

    Raises:
        S2PError: several processes without a folder that all of them see.
    """
    if job.work is not None:
        job.work.mkdir(parents=True, exist_ok=True)
        yield job.work
    elif workers.count > 1:
        raise S2PError("several processes need a work folder that all of them see", "name one")
    else:
        with tempfile.TemporaryDirectory(prefix="s2p-mobile-") as folder:
            yield Path(folder)


def forget_unfinished(folder: Path) -> None:
    """Drop what only an unfinished run needs; log and plot stay, and a folder with nothing left in it goes."""
    for name in (STATE_NAME, LATENTS_FOLDER, PARTS_FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / PLAN_NAME).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


_OF_NO_CONSEQUENCE = (
    "learning_rates", "guard", "save_minutes", "offload_activations", "shard_optimizer", "precision", "checkpoint_activations",
)  # fmt: skip
"""What a user may change to get past a divergence, and what changes no more than roundings."""
_OF_THE_START = ("prompts", "start", "loss")
"""Parts of a training rule that decide what comes before training."""


def fingerprint(job: QuantizationJob) -> str:
    """SHA-256 of everything that decides a run, but for learning rates, guard, how often the state is saved, and how and where the
    networks compute."""
    recipe = job.recipe.model_dump(mode="json")
    for key in _OF_NO_CONSEQUENCE:
        del recipe["training"][key]
    return _digest(job, recipe)


def start_fingerprint(job: QuantizationJob) -> str:
    """SHA-256 of everything that decides what comes before training."""
    recipe = job.recipe.model_dump(mode="json")
    recipe["training"] = {key: recipe["training"][key] for key in _OF_THE_START}
    return _digest(job, recipe)


def _digest(job: QuantizationJob, recipe: dict[str, Any]) -> str:
    identity = {
        "version": _VERSION,
        "recipe": recipe,
        "plan": job.plan.model_dump(mode="json"),
        "prompts": job.prompts,
        "guidance": job.guidance,
        "seed": job.seed,
        "unet": job.model.unet_sha256,
        "unet_config": job.model.unet_config,
        "texts": job.model.text_sha256,
        "embedded_guidance": job.model.embedded_guidance,
    }
    if job.like is not None:
        identity["like"] = job.like.identity
    if job.widths is not None:
        identity["widths"] = dict(job.widths)
    if job.sensitivity is not None:
        identity["sensitivity"] = job.sensitivity.model_dump(mode="json")
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def finished_parts(job: QuantizationJob) -> FinishedParts:
    """What of a job's work before training is done; nothing is kept of a job without a work folder."""
    return NOTHING_KEPT if job.work is None else FinishedParts(job.work / PARTS_FOLDER, start_fingerprint(job))
