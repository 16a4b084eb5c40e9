"""What the baselines begin with: FP trajectories and the width of each layer, those that S2P gets too."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from s2p_converters.core.graph import StepUNet, layer_specs
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.latents import LatentDataset
from s2p_mobile.quantize.preparation.latents import job_latents
from s2p_mobile.quantize.preparation.starting_point import planned_bits
from s2p_mobile.quantize.rounding.rounded import EDGE_BITS
from s2p_mobile.quantize.workers import Workers


@contextlib.contextmanager
def baseline_latents(job: QuantizationJob) -> Iterator[tuple[LatentDataset, torch.device]]:
    """FP trajectories of the job's prompts (kept for the time of the ``with`` only, unless the job names a set), and the device."""
    workers = Workers(job.device)
    with tempfile.TemporaryDirectory(prefix="s2p-mobile-") as folder:
        yield job_latents(job, Path(folder), workers), workers.device


def baseline_bits(job: QuantizationJob, teacher: StepUNet, edges: bool) -> dict[str, int]:
    """Width of every quantized layer: the recipe's plan, which S2P gets too.

    Args:
        teacher: the FP graph, on the CPU.
        edges: conv_in and conv_out are quantized as well, to 8 bits.
    """
    bits = planned_bits(job, teacher)
    every = layer_specs(job.structure)
    if edges:
        bits |= {every[0].name: EDGE_BITS, every[-1].name: EDGE_BITS}
    return {spec.name: bits[spec.name] for spec in every if spec.name in bits}
