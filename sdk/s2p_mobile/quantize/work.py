"""The folder beside a checkpoint in which a method keeps what an interrupted run need not do again: latents, finished parts of the
rounding, a training's state, its log and its loss plot."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.workers import Workers
from s2p_runtime.errors import S2PError

STATE_NAME = "state.safetensors"
LATENTS_FOLDER = "latents"
ROUNDING_FOLDER = "rounding"
"""Finished parts of the weights that training starts from."""
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
    (folder / STATE_NAME).unlink(missing_ok=True)
    for name in (LATENTS_FOLDER, ROUNDING_FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def fingerprint(job: QuantizationJob) -> str:
    """SHA-256 of everything that decides a run, but for what a user may change to get past a divergence (learning rates,
    guard), how often the state is saved and where tensors wait."""
    recipe = job.recipe.model_dump(mode="json")
    for key in ("learning_rates", "guard", "save_minutes", "offload_activations", "shard_optimizer"):
        del recipe["training"][key]
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
    if job.sensitivity is not None:
        identity["sensitivity"] = job.sensitivity.model_dump(mode="json")
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
