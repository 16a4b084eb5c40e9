"""What finding bits, activation grids and starting weights holds in memory."""

from __future__ import annotations

from s2p_converters.core.resources import parameter_bytes
from s2p_mobile.quantize.bits import ranking_bits
from s2p_mobile.quantize.calibration import BINS
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.moments import MEMORY_BYTES, moment_bytes
from s2p_mobile.quantize.preparation.starting_point import bits_stages
from s2p_mobile.quantize.rounding.memory import reconstruction_bytes, waiting_bytes
from s2p_mobile.quantize.stages import Memory

_FLOAT32 = 4
_SAMPLES = 16
"""Of the largest pass without gradients."""


def starting_memory(job: QuantizationJob) -> Memory:
    """Of a model in float32 whose layers are ranked, and whose activations are recorded. What libraries take is not counted."""
    model, weights = job.model, sum(layer.weights for layer in job.layers)
    ranking = bits_stages(job)
    candidates = weights * len(ranking_bits(job.recipe)) if ranking else 0
    if any(passes.backward for stage in ranking for passes in stage.passes):
        candidates += 3 * _FLOAT32 * weights  # a gradient, its square, their sums
    recorded = 0 if job.recipe.activations.bits is None else 2 * _FLOAT32 * len(job.plan.calls) * len(job.layers) * BINS
    parts = {
        "model": parameter_bytes(model.folder, model.weighty_folders),
        "passes": _SAMPLES * waiting_bytes(job.structure),
        "ranking": candidates,
        "activation statistics": recorded,
    }
    return Memory(parts, (("ranking",), ("activation statistics",)))


def preparation_memory(job: QuantizationJob) -> Memory:
    """:func:`starting_memory`, and what finding the weights to start from holds."""
    rule, layers = job.recipe.training.start, job.layers
    weights = sum(layer.weights for layer in layers)
    rounding = 0
    if rule.rounding == "gptq":
        rounding = min(sum(map(moment_bytes, layers)), MEMORY_BYTES)
    elif rule.rounding == "adaround":
        rounding = reconstruction_bytes(job.structure, layers, rule.samples)
    parts = {"starting weights": 0 if rule.rounding == "nearest" else _FLOAT32 * weights, "rounding": rounding}
    return starting_memory(job).with_parts(parts, (("rounding",),))
