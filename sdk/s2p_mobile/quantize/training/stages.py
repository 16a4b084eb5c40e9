"""What a training takes: passes of student and teacher, and the work on every weight after each of them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from s2p_converters.core.graph import LayerSpec
from s2p_mobile.quantize.grid import search_pieces
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.recipes.training import TrainingRule
from s2p_mobile.quantize.stages import Passes, Piece, Stage
from s2p_mobile.quantize.stages.stage import Run
from s2p_mobile.quantize.student.layers import ScaledLayer, TrainedLayer
from s2p_mobile.quantize.student.network import student_network, student_shape
from s2p_mobile.quantize.training.freezing import OscillationTracker
from s2p_mobile.quantize.training.memory import training_memory
from s2p_mobile.quantize.training.optimizer import make_learner

TRAINING_STAGE = "training"


def training_stage(job: QuantizationJob) -> Stage:
    """What :class:`~s2p_mobile.quantize.training.trainer.Trainer` announces and does, in one process from the first iteration."""
    rule, layers = job.recipe.training, job.layers
    batches = rule.iterations * rule.accumulate
    samples = batches * rule.batch * job.branches
    steps = batches * -(-rule.batch // (job.compute.pairs or rule.batch))
    student = student_network(student_shape(job), job.compute.training)
    passes = [Passes(samples, steps, backward=True, network=student)]
    if rule.checkpoint_activations or job.compute.recompute:
        passes.append(Passes(samples, steps, network=student))
    if teacher := teacher_passes(rule):
        passes.append(Passes(teacher * samples, teacher * steps))
    update = [
        Piece(
            "update of weights",
            (layer.kind, layer.weight_shape),
            rule.iterations,
            layer.weights,
            _update(layer, rule, job.compute.moments),
        )
        for layer in layers
    ]
    search = search_pieces([layer.weight_shape for layer in layers], job.recipe.weights.search)
    memory = training_memory(job, teacher_passes(rule) > 0)
    return Stage(TRAINING_STAGE, rule.iterations, passes, [*update, *search], memory=memory)


def teacher_passes(rule: TrainingRule) -> int:
    """FP passes for each micro-batch: block outputs to learn from, outputs that the latent set does not hold."""
    distils = rule.distillation.weight > 0
    if rule.pipeline == "s2p":
        return int(distils and not rule.store_features)
    # The serial pipeline asks for the output on its way to the next call, and for the block outputs afterwards.
    return 1 + (distils and rule.pipeline == "serial")


def _update(spec: LayerSpec, rule: TrainingRule, moments: str) -> Callable[[torch.device], Run]:
    """An optimizer step on one layer, and what follows it."""

    def prepare(device: torch.device) -> Run:
        learned = TrainedLayer(spec, 8, 8, rule.freezing is not None).to(device)
        layer = learned if rule.learn == "weights" else ScaledLayer(spec, 8, 8).to(device)
        parameters = {f"layer.{name}": parameter for name, parameter in layer.named_parameters()}
        gradients = {name: torch.randn_like(parameter) for name, parameter in parameters.items()}
        learner = make_learner(parameters, rule, moments)
        tracks = rule.freezing is not None and rule.learn == "weights"
        tracker = OscillationTracker({"layer": learned}, rule.freezing) if tracks and rule.freezing else None

        def run() -> None:
            for name, parameter in parameters.items():
                parameter.grad = gradients[name]
            torch._foreach_norm(list(gradients.values()))
            learner.step(0)
            if tracker is not None:
                tracker.update(0, rule.iterations)

        return run

    return prepare
