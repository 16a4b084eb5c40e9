"""Starting weights by AdaRound: each weight is rounded up or down such that a resnet's or a transformer layer's output stays the FP
one's, in the order in which they run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s2p_mobile.quantize.grid import search_pieces
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.latents import LatentDataset
from s2p_mobile.quantize.preparation.finished_units import FinishedUnits
from s2p_mobile.quantize.recipes.baselines import LARGEST_RATE
from s2p_mobile.quantize.rounding.calls import random_pairs, read_calls, sample_count
from s2p_mobile.quantize.rounding.learned import WEIGHTS_STAGE, RoundingRule, learn_rounding, reconstruct
from s2p_mobile.quantize.rounding.memory import samples_that_fit
from s2p_mobile.quantize.rounding.rounded import build_rounded
from s2p_mobile.quantize.rounding.stages import Reconstruction
from s2p_mobile.quantize.stages import Stage
from s2p_mobile.quantize.work import ROUNDING_FOLDER, fingerprint

BATCH = 8
"""Samples of an optimizer step."""


def rounding_rule(iterations: int) -> RoundingRule:
    """Learning rate, penalty and warm-up: 20 over the iterations, at most 0.02, so that a short run moves a variable as far as the
    20,000 steps of 0.001 that Q-Diffusion takes."""
    return RoundingRule(iterations, BATCH, min(LARGEST_RATE, 20 / iterations), quantized_inputs=True, warmup=0.2)


def reconstructed_weights(
    job: QuantizationJob, bits: Mapping[str, int], latents: LatentDataset, device: torch.device, work: Path | None = None
) -> dict[str, Tensor]:
    """Weights on the recipe's symmetric grids, each within one step of the FP one. Activations are in float meanwhile.

    Args:
        bits: bit-width of every layer to round.
        work: folder in which finished parts of the network are kept, so that an interrupted run goes on with the others.

    Returns:
        layer -> float32 [C_out, ...], on the CPU.
    """
    start = job.recipe.training.start
    rule = rounding_rule(start.iterations)
    samples = samples_that_fit(job.structure, start.samples)
    calls = read_calls(latents, *random_pairs(latents, samples, np.random.default_rng([job.seed, 14])), device)
    network = build_rounded(job, bits, device, search=job.recipe.weights.search, split_skips=False, attention=False)
    generator = torch.Generator().manual_seed(job.seed)
    kept = None if work is None else FinishedUnits(work / ROUNDING_FOLDER, fingerprint(job), generator)
    learn = partial(learn_rounding, rule=rule, generator=generator)
    detail = f"({rule.iterations} iterations a unit, {calls.count} samples)"
    reconstruct(network, calls, learn, rule.quantized_inputs, job.progress, WEIGHTS_STAGE, detail, kept)
    with torch.no_grad():
        return {name: torch.cat([part() for part in layer.parts], dim=1).cpu() for name, layer in network.layers.items()}


def reconstructed_stage(job: QuantizationJob, prompts: int) -> Stage:
    """What :func:`reconstructed_weights` announces and does.

    Args:
        prompts: of the latent set.
    """
    start = job.recipe.training.start
    samples = sample_count(prompts * len(job.plan.calls), job.branches, samples_that_fit(job.structure, start.samples))
    search = search_pieces([layer.weight_shape for layer in job.layers], job.recipe.weights.search)
    return Reconstruction(job, job.layers, samples).weights_stage(rounding_rule(start.iterations), search)
