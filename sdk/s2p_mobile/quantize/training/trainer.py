"""The training loop."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from s2p_converters.core.graph import StepUNet
from s2p_mobile.quantize.compute import autocast
from s2p_mobile.quantize.interruption import Interrupted, stop_on_interrupt
from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.latents import LatentDataset
from s2p_mobile.quantize.recompute import recompute_in_backward
from s2p_mobile.quantize.student.layers import TrainedLayer
from s2p_mobile.quantize.student.student import (
    StudentSpec,
    build_student,
    learned_floats,
    learned_parameters,
    quantized_unet,
    student_layers,
)
from s2p_mobile.quantize.student.tables import TrainedTables
from s2p_mobile.quantize.training.batches import Batch, make_batches
from s2p_mobile.quantize.training.freezing import OscillationTracker
from s2p_mobile.quantize.training.guard import Diverged, Guard, first_culprit
from s2p_mobile.quantize.training.log import LOG_NAME, PLOT_NAME, LogLine, TrainingLog, plot_losses
from s2p_mobile.quantize.training.loss import Losses, combined, feature_error, output_error
from s2p_mobile.quantize.training.loss_scale import LossScale
from s2p_mobile.quantize.training.offload import saved_elsewhere, saved_on_host
from s2p_mobile.quantize.training.optimizer import make_learner, schedule, units
from s2p_mobile.quantize.training.shares import Shares
from s2p_mobile.quantize.training.stages import TRAINING_STAGE, teacher_passes
from s2p_mobile.quantize.training.state import TrainingState, restore, save_state
from s2p_mobile.quantize.work import STATE_NAME, fingerprint
from s2p_mobile.quantize.workers import Workers
from s2p_mobile.sources.trajectory import float_unet


class Trainer:
    """One run: student, teacher, data, optimizer, and the folder that holds its state."""

    def __init__(self, job: QuantizationJob, spec: StudentSpec, latents: LatentDataset, folder: Path, workers: Workers) -> None:
        """
        Args:
            job: what is quantized; ``job.recipe.training`` says how.
            spec: bits and initial scales.
            latents: FP trajectories of the job's prompts.
            folder: for state, log and plot; written by the main process.
            workers: the processes of the run.

        Raises:
            S2PError: the batch cannot be shared by the processes.
        """
        self.job, self.rule, self.folder, self.workers = job, job.recipe.training, folder, workers
        # Not the spec itself: the weights that the student starts from would stay, 4 GiB at the size of SD v1-4.
        self._weight_bits, self.compute = spec.weight_bits, job.compute
        self.student = build_student(job, spec, workers.device)
        self.scale = LossScale(enabled=self.compute.training == "fp16")
        weights = torch.ones(len(job.plan.calls)) if spec.call_weights is None else spec.call_weights
        self.call_weights = weights.to(workers.device)
        workers.from_main(self._own_tensors().values())
        if self.rule.checkpoint_activations or self.compute.recompute:
            recompute_in_backward(self.student)
        self._offloads = self.rule.offload_activations and saved_elsewhere(workers.device)
        self.batches = make_batches(
            latents,
            self.rule,
            lambda: self.teacher,
            job.guidance,
            job.seed,
            job.model.folder / "scheduler",
            workers.count,
            self.call_weights,
        )
        self.parameters = dict(learned_parameters(self.student))
        self.layers = student_layers(self.student)
        kept = torch.float32 if self.compute.moments == "fp32" else torch.bfloat16
        self.shares = Shares(self.parameters, workers, self.rule.shard_optimizer, kept)
        self.learner = make_learner(self.shares.own, self.rule, self.compute.moments, units(self.parameters))
        learned = {name: layer for name, layer in self.layers.items() if isinstance(layer, TrainedLayer)}
        self.tracker = None if self.rule.freezing is None else OscillationTracker(learned, self.rule.freezing)
        self.iteration = 0
        self._identity = fingerprint(job)
        self._saved_iteration = 0
        if self.compute.graph != "fp32":
            # Teacher and student are copies then: the model's own weights are loaded again when they are written.
            if teacher_passes(self.rule):
                assert self.teacher
            job.model.release()

    @cached_property
    def teacher(self) -> StepUNet:
        """The FP graph; in a run that learns from stored outputs alone it is never made."""
        return self.compute.place(float_unet(self.job.model, self.job.plan, self.job.structure), self.workers.device)

    def restore(self, state: TrainingState) -> None:
        """Go on from a saved state.

        Raises:
            S2PError: a tensor is missing or has another shape.
        """
        path = self.folder / STATE_NAME
        restore(self._own_tensors(), state.part("student"), path)
        self.learner.restore(state.part("learner"), state.iteration)
        self.iteration = self._saved_iteration = state.iteration

    def run(self) -> QuantizedUNet:
        """Train to the end and return the U-Net, from the averaged parameters when the recipe averages.

        Raises:
            Interrupted: Ctrl-C; the state is saved.
            Diverged: the loss ran away; the last good state is kept and the message names layer and call.
            S2PError: the state cannot be written.
        """
        log = TrainingLog(self.folder / LOG_NAME if self.workers.main else None, self.iteration)
        guard = Guard(self.rule.guard, log.losses[-self.rule.guard.window :])
        rest = self.rule.iterations - self.iteration
        try:
            with stop_on_interrupt() as stop, self.job.progress.stage(TRAINING_STAGE, rest) as advance:
                if self.iteration == 0:
                    self._save()
                saved = time.monotonic()
                while self.iteration < self.rule.iterations:
                    due = time.monotonic() - saved > 60 * self.rule.save_minutes
                    line, asked_to_stop, due = self._step(guard, stop.requested, due)
                    log.add(line)
                    advance(f"loss {line.loss:.3g}")
                    if asked_to_stop or due or self.iteration == self.rule.iterations:
                        if guard.healthy and self._finite():
                            self._save()
                        saved = time.monotonic()
                    if asked_to_stop and self.iteration < self.rule.iterations:
                        raise Interrupted(f"stopped at iteration {self._saved_iteration}", "go on with `resume`", "resume")
        finally:
            log.close()
        if self.workers.main:
            plot_losses(self.folder / LOG_NAME, self.folder / PLOT_NAME)
        if self.rule.ema is not None:
            self.learner.put_average()
            self.shares.publish()
        return quantized_unet(self.student)

    def _step(self, guard: Guard, stop: bool, due: bool) -> tuple[LogLine, bool, bool]:
        """One optimizer step. Also returns whether any process was asked to stop, and whether the state is to be saved."""
        began = time.monotonic()
        sums = torch.zeros(5, device=self.workers.device)
        for part in range(self.rule.accumulate):
            whole = self._micro_batch(part)
            for piece in whole.split(self.compute.pairs or len(whole.calls)):
                share = len(piece.calls) / len(whole.calls) / self.rule.accumulate
                losses = self._losses(piece.to(self.workers.device))
                if self.scale.waits:
                    # Of all processes, which have to agree; the later pieces of the step are much alike.
                    first = float(self.workers.mean(losses.total.detach().reshape(1)))
                    outputs = whole.samples.numel() * whole.conditions[0].shape[1] * self.rule.accumulate
                    self.scale.start(first, outputs)
                (losses.total * (share * self.scale.factor)).backward()
                sums[:3] += torch.stack([losses.total.detach(), losses.output, losses.features]) * share
        # Agreed on by all: saving the state is a common effort.
        sums[3], sums[4] = float(stop), float(due)
        total, output, features, stops, dues = self.workers.mean(sums).tolist()
        problem = guard.problem(total)
        infinite = self._share_gradients()
        if problem is None and infinite is not None and self.scale.overflowed():
            self.shares.publish()
        elif problem is not None or infinite is not None:
            self._give_up(problem or infinite or "")
        else:
            self.scale.succeeded()
            self.learner.step(self.iteration)
            self.shares.publish()
            if self.tracker is not None:
                self.tracker.update(self.iteration, self.rule.iterations)
        rate = schedule(self.iteration, self.rule)
        self.iteration += 1
        frozen = 0.0 if self.tracker is None else self.tracker.frozen_share
        return LogLine(self.iteration, total, output, features, rate, frozen, time.monotonic() - began), stops > 0, dues > 0

    def _micro_batch(self, part: int) -> Batch:
        index = self.iteration * self.rule.accumulate + part
        return self.batches.batch(index, self.workers.rank, self.workers.count)

    def _losses(self, batch: Batch) -> Losses:
        rule = self.rule
        inputs = flatten_pairs(batch)
        targets = None if batch.outputs is None else batch.outputs.flatten(0, 1)
        fp_features = {name: value.flatten(0, 1) for name, value in (batch.features or {}).items()}
        distils = rule.distillation.weight > 0
        if targets is None or (distils and not fp_features):
            with torch.no_grad():
                output, blocks = self.teacher.with_features(*self._for_teacher(inputs))
            targets = output if targets is None else targets
            fp_features = fp_features or blocks
        with self._autocast(), saved_on_host(self._offloads):
            output, blocks = self.student.with_features(*inputs)
        pairs = len(batch.calls)
        error = output_error(
            output.unflatten(0, (pairs, -1)), targets.unflatten(0, (pairs, -1)), self.job.guidance, rule.loss.guided
        )
        features = feature_error(blocks, fp_features, pairs) if distils else None
        return combined(error, features, batch.importance, rule.distillation.weight)

    def _for_teacher(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The same in the teacher's precision."""
        dtype = self.compute.graph_dtype
        return tuple(value.to(dtype) if value.is_floating_point() else value for value in inputs)

    def _autocast(self) -> AbstractContextManager[None]:
        """Products of the student in the precision of training."""
        return autocast(self.workers.device, self.compute.training)

    def _share_gradients(self) -> str | None:
        """Average the gradients over the processes and undo the loss's factor; says which is not finite."""
        if self.workers.count > 1:
            gradients = [self._gradient(parameter) for parameter in self.parameters.values()]
            flat = self.workers.mean(torch.cat([gradient.reshape(-1) for gradient in gradients]))
            parts = flat.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        self.scale.remove(self.parameters.values())
        norms = torch.stack(torch._foreach_norm([self._gradient(parameter) for parameter in self.parameters.values()]))
        if bool(norms.isfinite().all()):
            return None
        name = list(self.parameters)[int((~norms.isfinite()).nonzero()[0])]
        return f"the gradient of {name} is not finite"

    def _finite(self) -> bool:
        """Whether the learned parameters are all finite, so that the state is a good one."""
        norms = torch._foreach_norm([parameter.detach() for parameter in self.parameters.values()])
        return bool(torch.stack(norms).isfinite().all())

    def _gradient(self, parameter: nn.Parameter) -> Tensor:
        """A parameter's gradient; zeros when no sample of this process reached it."""
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        return parameter.grad

    def _give_up(self, problem: str) -> NoReturn:
        """Find where it began and stop; the state file holds the last good state."""
        names = list(self.layers)
        inputs = flatten_pairs(self._micro_batch(0).to(self.workers.device))
        mine = first_culprit(self.student, inputs, self.teacher, self._for_teacher(inputs), names)
        steps = len(self.job.plan.calls)
        # The first layer of all processes, and its first call, as one number.
        position, call = divmod(self.workers.smallest(mine.position * steps + mine.call), steps)
        layer = mine.layer if position == mine.position else names[position]
        raise Diverged(
            f"training diverged at iteration {self.iteration + 1}: {problem}; the output of layer {layer} at call {call} "
            f"{mine.what} first",
            f"the state of iteration {self._saved_iteration} is kept in {self.folder}: "
            f"lower training.learning_rates in the recipe and go on with `resume`",
            "resume",
        )

    def _own_tensors(self) -> dict[str, Tensor]:
        """The tensors that training changes or that were searched for."""
        tensors = {"call_weights": self.call_weights, "loss_scale": self.scale.state}
        for name, layer in student_layers(self.student).items():
            tensors.update({f"{name}.{part}": value.detach() for part, value in layer.state_dict().items()})
        tensors.update({name: value.detach() for name, value in learned_floats(self.student)})
        assert isinstance(self.student.tables, TrainedTables)
        if self.student.tables.log_scales is not None and self.student.tables.base is not None:
            tensors["tables.log_scales"] = self.student.tables.log_scales.detach()
            tensors["tables.base"] = self.student.tables.base
            zeros = [layer.activation_zero for layer in student_layers(self.student).values()]
            tensors["tables.zeros"] = torch.tensor(zeros, dtype=torch.int32)
            floats = [layer.activation_bits is None for layer in student_layers(self.student).values()]
            tensors["tables.floats"] = torch.tensor(floats, dtype=torch.int32)
        return tensors

    def _save(self) -> None:
        learner = self.shares.collect(self.learner.tensors(), self.learner.kinds(self.iteration))
        if self.workers.main:
            parts = {"student": self._own_tensors(), "learner": learner}
            tensors = {f"{part}/{name}": value for part, named in parts.items() for name, value in named.items()}
            save_state(self.folder / STATE_NAME, TrainingState(self.iteration, self._weight_bits, tensors), self._identity)
        self._saved_iteration = self.iteration


def flatten_pairs(batch: Batch) -> tuple[Tensor, ...]:
    """U-Net inputs of a batch: samples [n B, C, H, W], calls [n B], conditions [n B, ...] each."""
    branches = batch.conditions[0].shape[1]
    samples, calls = batch.samples.repeat_interleave(branches, dim=0), batch.calls.repeat_interleave(branches)
    return samples, calls, *(condition.flatten(0, 1) for condition in batch.conditions)
