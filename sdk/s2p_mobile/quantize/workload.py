"""What a U-Net call of a checkpoint takes, whatever it will be converted to."""

from __future__ import annotations

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.packing import packs
from s2p_mobile.quantize.stages.counting import LayerWork, count_network
from s2p_runtime.workload import Workload

_HALF = 2
"""Bytes of a number that is not quantized, on a phone."""


def checkpoint_workload(checkpoint: Checkpoint) -> Workload:
    """Count a U-Net call at the checkpoint's picture size: a batch of two where there is guidance.

    Layers that have integers for weights and activations compute on integers; what a target makes of them is not known here.
    Activations are what layers read and write, each once.
    """
    manifest = checkpoint.manifest
    counted = count_network(checkpoint.structure, manifest.tokenizer.max_length)
    entries = {entry.name: entry for entry in manifest.layers}
    batch = 2 if manifest.guidance > 1 else 1
    integers = moved = weights = 0
    for work in counted.layers:
        entry = entries[work.spec.name]
        quantized = entry.weight_bits is not None and entry.activation_bits is not None
        integers += work.flops if quantized else 0
        moved += work.values * (1 if quantized else _HALF) + _results(work) * _HALF
        weights += _stored(work.spec.weights, entry.weight_bits) + work.spec.out_channels * _HALF
    return Workload(
        program="unet",
        unet=True,
        batch=batch,
        integer_operations=batch * integers,
        palette_operations=0,
        float_operations=batch * (counted.flops - integers),
        weight_bytes=weights,
        activation_bytes=batch * moved,
        runs=len(manifest.plan.calls),
    )


def _results(work: LayerWork) -> int:
    """Numbers of a layer's output: every weight of an output channel is used once for each."""
    return work.flops * work.spec.out_channels // (2 * work.spec.weights)


def _stored(weights: int, bits: int | None) -> int:
    if bits is None:
        return weights * _HALF
    return (weights + 1) // 2 if packs(bits) else weights
