"""S2P: FP trajectories drawn once in series, then training in parallel on shuffled calls (docs/method.md)."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.methods.registry import register
from s2p_mobile.quantize.preparation.latents import job_latents
from s2p_mobile.quantize.preparation.student import prepare
from s2p_mobile.quantize.training import STATE_NAME, StudentSpec, Trainer, TrainingState, fingerprint, load_state
from s2p_mobile.quantize.workers import Workers, join_workers
from s2p_runtime.errors import S2PError


@register("s2p")
def serial_to_parallel(job: QuantizationJob) -> QuantizedUNet:
    """Train a quantized model; ``recipe.training.pipeline`` may also name the serial or the parallel pipeline.

    With ``job.work`` the latent set (``latents/``), finished parts of the start (``rounding/``), the training state, the log and the
    loss plot lie in that folder and outlive the run, so that ``job.resume`` can go on after an interruption; without it they are
    temporary.

    Raises:
        Interrupted: Ctrl-C; with ``job.work`` the state is kept.
        Diverged: the loss ran away; with ``job.work`` the last good state is kept.
        S2PError: a training state is there without ``job.resume``, or is of other settings; no space left.
    """
    workers = join_workers(job.device)
    with _work_folder(job, workers) as folder:
        path = folder / STATE_NAME
        state: TrainingState | None = None
        if path.exists():
            if not job.resume:
                raise S2PError(
                    f"a training state lies in {folder}", "pass `resume` to go on or `force` to begin again", "resume"
                )
            state = load_state(path, fingerprint(job))
        latents = job_latents(job, folder, workers)
        if state is None:
            spec = prepare(job, latents, workers.device, folder)
        else:
            table = state.tensors.get("student/tables.base")
            weights = state.tensors.get("student/call_weights")
            zeros = state.tensors.get("student/tables.zeros", torch.zeros(0))
            spec = StudentSpec(
                state.weight_bits,
                None if table is None else torch.clone(table),
                {name: int(zero) for name, zero in zip(state.weight_bits, zeros, strict=table is not None)},
                call_weights=weights,
            )
        trainer = Trainer(job, spec, latents, folder, workers)
        if state is not None:
            trainer.restore(state)
        unet = trainer.run()
        workers.wait()
        return unet


@contextlib.contextmanager
def _work_folder(job: QuantizationJob, workers: Workers) -> Iterator[Path]:
    if job.work is not None:
        job.work.mkdir(parents=True, exist_ok=True)
        yield job.work
    elif workers.count > 1:
        raise S2PError("several processes need a work folder that all of them see", "name one")
    else:
        with tempfile.TemporaryDirectory(prefix="s2p-mobile-") as folder:
            yield Path(folder)
