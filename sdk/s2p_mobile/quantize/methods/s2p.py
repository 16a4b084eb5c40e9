"""S2P: FP trajectories drawn once in series, then training in parallel on shuffled calls (docs/method.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.methods.method import Method
from s2p_mobile.quantize.preparation.latents import job_latents, latent_stages, latents_disk, prompts_at_hand
from s2p_mobile.quantize.preparation.prepare import preparation_stages, prepare
from s2p_mobile.quantize.recipes.training import TrainingRule
from s2p_mobile.quantize.stages import Stage
from s2p_mobile.quantize.student import StudentSpec
from s2p_mobile.quantize.training import Trainer, TrainingState, load_state
from s2p_mobile.quantize.training.memory import state_bytes
from s2p_mobile.quantize.training.stages import training_stage
from s2p_mobile.quantize.work import STATE_NAME, fingerprint, working_folder
from s2p_mobile.quantize.workers import join_workers
from s2p_runtime.errors import S2PError


class SerialToParallel(Method):
    """S2P; ``recipe.training.pipeline`` may also name the serial or the parallel pipeline."""

    name = "s2p"
    title = "training of weights, scales and time tables on FP trajectories"
    keeps_work = True

    def run(self, job: QuantizationJob) -> QuantizedUNet:
        """Train a quantized model.

        With ``job.work`` the latent set (``latents/``), finished parts of the start (``parts/``), the training state, the log and
        the loss plot lie in that folder and outlive the run, so that ``job.resume`` can go on after an interruption; without it they
        are temporary.

        Raises:
            Interrupted: Ctrl-C; with ``job.work`` the state is kept.
            Diverged: the loss ran away; with ``job.work`` the last good state is kept.
            S2PError: a training state is there without ``job.resume``, or is of other settings; no space left.
        """
        workers = join_workers(job.device)
        with working_folder(job, workers) as folder:
            state = _saved_state(job, folder)
            latents = job_latents(job, folder, workers, features=_stores_features(job.recipe.training))
            # The weights to start from go with what holds them: it has no name here.
            trainer = Trainer(
                job,
                prepare(job, latents, workers.device) if state is None else _spec_of(state),
                latents,
                folder,
                workers,
            )
            if state is not None:
                trainer.restore(state)
            unet = trainer.run()
            workers.wait()
            return unet

    def stages(self, job: QuantizationJob) -> Sequence[Stage]:
        """See :class:`Method`."""
        return [*latent_stages(job), *preparation_stages(job, prompts_at_hand(job)), training_stage(job)]

    def disk(self, job: QuantizationJob) -> Mapping[str, int]:
        """See :class:`Method`."""
        stored = _stores_features(job.recipe.training)
        return {**latents_disk(job, features=stored), "training state": state_bytes(job)}


def _stores_features(rule: TrainingRule) -> bool:
    return rule.store_features and rule.distillation.weight > 0


def _saved_state(job: QuantizationJob, folder: Path) -> TrainingState | None:
    path = folder / STATE_NAME
    if not path.exists():
        return None
    if not job.resume:
        raise S2PError(f"a training state lies in {folder}", "pass `resume` to go on or `force` to begin again", "resume")
    return load_state(path, fingerprint(job))


def _spec_of(state: TrainingState) -> StudentSpec:
    table = state.tensors.get("student/tables.base")
    zeros = state.tensors.get("student/tables.zeros", torch.zeros(0))
    floats = state.tensors.get("student/tables.floats", torch.zeros(0))
    return StudentSpec(
        state.weight_bits,
        None if table is None else torch.clone(table),
        {name: int(zero) for name, zero in zip(state.weight_bits, zeros, strict=table is not None)},
        frozenset(name for name, is_float in zip(state.weight_bits, floats, strict=table is not None) if is_float),
        call_weights=state.tensors.get("student/call_weights"),
    )


S2P = SerialToParallel()
