"""What a reconstruction holds in memory and on the disk."""

from __future__ import annotations

from collections.abc import Sequence

from s2p_converters.core.graph import LayerSpec
from s2p_mobile.quantize.compute import BYTES
from s2p_mobile.quantize.holdings import FLOAT32, holding, pass_bytes
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.rounding.block_walk import reconstruction_units
from s2p_mobile.quantize.stages import Memory
from s2p_mobile.quantize.stages.peaks import saved_by_fp, waiting_bytes

_LEARNING = 8
"""Numbers for each weight of a unit that is learned: the integer below, V, its gradient and two moments; h, the rounded weight and
its gradient."""


def sample_bytes(job: QuantizationJob) -> int:
    """What one sample takes while two graphs walk: state and skips of both, inputs of a unit and its output."""
    waiting, unit = waiting_bytes(job.structure, job.model.conditioner.tokens)
    return (2 * waiting + unit) * BYTES[job.compute.graph] // FLOAT32


def reconstruction_memory(job: QuantizationJob, layers: Sequence[LayerSpec], samples: int, batch: int) -> Memory:
    """While rounding is learned.

    Args:
        layers: that are rounded.
        samples: that walk.
        batch: samples of an optimizer step.
    """
    unit = max(sum(layer.weights for layer in found) for _, found in reconstruction_units(layers))
    saved = saved_by_fp(job.structure, job.model.conditioner.tokens).largest
    device = {
        # A byte for each weight that is finished.
        "integers": sum(layer.weights for layer in layers),
        "learned unit": _LEARNING * FLOAT32 * unit,
        "passes": max(pass_bytes(job, job.compute.samples), batch * saved),
    }
    waiting = min(samples * sample_bytes(job), job.compute.waiting)
    return holding(job, device, {"waiting samples": waiting})


def waiting_on_disk(job: QuantizationJob, samples: int) -> int:
    """Bytes of files in which samples wait that memory has no room for."""
    return max(0, samples * sample_bytes(job) - job.compute.waiting)
