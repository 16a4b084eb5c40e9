"""What the baselines begin with: FP trajectories and the bit-width of each layer, those that S2P gets too."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from s2p_converters.core.graph import LayerSpec, StepUNet, layer_specs
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.latents import LatentDataset
from s2p_mobile.quantize.methods.method import Method
from s2p_mobile.quantize.preparation.latents import job_latents, latent_stages, latents_disk
from s2p_mobile.quantize.preparation.starting_point import bits_stages, planned_bits
from s2p_mobile.quantize.rounding.rounded import EDGE_BITS
from s2p_mobile.quantize.rounding.waiting import WaitingRoom, waiting_room
from s2p_mobile.quantize.stages import Stage
from s2p_mobile.quantize.workers import Workers


@contextlib.contextmanager
def baseline_latents(job: QuantizationJob) -> Iterator[tuple[LatentDataset, torch.device]]:
    """FP trajectories of the job's prompts (kept for the time of the ``with`` only, unless the job names a set), and the device."""
    workers = Workers(job.device)
    with tempfile.TemporaryDirectory(prefix="s2p-mobile-") as folder:
        yield job_latents(job, Path(folder), workers), workers.device


def baseline_room(job: QuantizationJob, device: torch.device) -> AbstractContextManager[WaitingRoom]:
    """Where the samples of a reconstruction wait."""
    return waiting_room(device, job.compute.waiting_dtype, job.compute.waiting, job.work)


def baseline_bits(job: QuantizationJob, teacher: StepUNet, edges: bool) -> dict[str, int]:
    """Bit-width of every quantized layer: the recipe's plan, which S2P gets too.

    Args:
        teacher: the FP graph.
        edges: conv_in and conv_out are quantized as well, to 8 bits.
    """
    bits = planned_bits(job, teacher)
    every = layer_specs(job.structure)
    if edges:
        bits |= {every[0].name: EDGE_BITS, every[-1].name: EDGE_BITS}
    return {spec.name: bits[spec.name] for spec in every if spec.name in bits}


def baseline_layers(job: QuantizationJob, edges: bool) -> list[LayerSpec]:
    """The layers of :func:`baseline_bits`."""
    every = layer_specs(job.structure)
    names = {layer.name for layer in job.layers} | ({every[0].name, every[-1].name} if edges else set())
    return [spec for spec in every if spec.name in names]


def input_stages(job: QuantizationJob) -> list[Stage]:
    """What :func:`baseline_latents` and :func:`baseline_bits` announce and do."""
    return [*latent_stages(job), *bits_stages(job)]


class Baseline(Method):
    """What the baselines have in common."""

    splits_shortcuts = False

    def disk(self, job: QuantizationJob) -> Mapping[str, int]:
        """See :class:`Method`."""
        return latents_disk(job)
