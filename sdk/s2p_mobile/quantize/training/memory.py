"""What a training holds in memory, counted on the student without numbers."""

from __future__ import annotations

import functools

import torch

from s2p_mobile.quantize.compute import BYTES
from s2p_mobile.quantize.holdings import FLOAT32, holding, largest_layer, weights_of
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.recipes.training import TrainingRule
from s2p_mobile.quantize.stages import Memory
from s2p_mobile.quantize.stages.counting import inputs_without_numbers
from s2p_mobile.quantize.stages.peaks import Saved, saved_by
from s2p_mobile.quantize.student.network import StudentShape, student_shape

_FREEZING = 5
"""Bytes a weight, see :class:`~s2p_mobile.quantize.student.layers.TrainedLayer`."""
_PORTION = 2 * (256 << 20)
"""Of a state that is written: a file's tensors, and its bytes."""


def training_memory(job: QuantizationJob, teacher: bool) -> Memory:
    """Bytes of what training holds; the allocator's own needs are not counted.

    Args:
        teacher: the FP network runs too.
    """
    rule, compute = job.recipe.training, job.compute
    learned, whole = _learned(job), rule.learn == "weights"
    saved = saved_bytes(student_shape(job), job.model.conditioner.tokens)
    samples = (compute.pairs or rule.batch) * job.branches
    recomputes = compute.recompute or rule.checkpoint_activations
    # Convolutions and products keep halves, norms do not.
    share = 1.0 if compute.training == "fp32" else 2 / 3
    of_layer = FLOAT32 * largest_layer(job).weights
    device = {
        "student": FLOAT32 * learned + weights_of(job) * (_freezing(rule) if whole else 1),
        "optimizer and averages": learned * _state_bytes(job),
        "gradients": FLOAT32 * learned,
        # Rounded weights, their ratios and gradients, of one layer at a time.
        "layer at work": 4 * of_layer,
        "activations": round(samples * saved.kept(recomputes) * share),
    }
    return holding(job, device, {"state file": _PORTION}, fp_network=teacher, releases=compute.graph != "fp32")


def _learned(job: QuantizationJob) -> int:
    """Numbers that are learned, nearly."""
    scales = sum(2 * layer.out_channels for layer in job.layers)
    return scales + (weights_of(job) if job.recipe.training.learn == "weights" else 0)


def _freezing(rule: TrainingRule) -> int:
    return 0 if rule.freezing is None else _FREEZING


def _state_bytes(job: QuantizationJob) -> int:
    """Of the optimizer and of averages, for each number."""
    number = BYTES["fp32" if job.compute.moments == "fp32" else "bf16"]
    return number * (2 + (job.recipe.training.ema is not None))


def state_bytes(job: QuantizationJob) -> int:
    """Of a saved training state, nearly: what is learned, two moments, averages, and what freezing follows."""
    rule = job.recipe.training
    fixed = weights_of(job) * (_freezing(rule) if rule.learn == "weights" else 1)
    return _learned(job) * (FLOAT32 + _state_bytes(job)) + fixed


@functools.lru_cache(maxsize=4)
def saved_bytes(shape: StudentShape, tokens: int) -> Saved:
    """What a forward pass of a student keeps for the backward pass.

    Args:
        tokens: N of the text.
    """
    with torch.device("meta"):
        student = shape.build()
    return saved_by(student, inputs_without_numbers(shape.structure, 2, tokens))
