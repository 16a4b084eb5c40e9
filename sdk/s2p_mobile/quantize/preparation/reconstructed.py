"""Starting weights by AdaRound: each weight is rounded up or down such that a resnet's or a transformer layer's output stays the FP
one's, in the order in which they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from s2p_mobile.quantize.grid import search_pieces
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.latents import LatentDataset
from s2p_mobile.quantize.preparation.finished_units import FinishedUnits
from s2p_mobile.quantize.recipes.baselines import LARGEST_RATE
from s2p_mobile.quantize.rounding.calls import draw_shares, random_pairs, read_calls, sample_count
from s2p_mobile.quantize.rounding.layers import RoundedLayer
from s2p_mobile.quantize.rounding.learned import WEIGHTS_STAGE, RoundingRule, learn_rounding, reconstruct
from s2p_mobile.quantize.rounding.rounded import build_rounded
from s2p_mobile.quantize.rounding.stages import Reconstruction
from s2p_mobile.quantize.rounding.waiting import waiting_room
from s2p_mobile.quantize.stages import Stage
from s2p_mobile.quantize.work import finished_parts

BATCH = 8
"""Samples of an optimizer step."""


def rounding_rule(iterations: int) -> RoundingRule:
    """Learning rate, penalty and warm-up: 20 over the iterations, at most 0.02, so that a short run moves a variable as far as the
    20,000 steps of 0.001 that Q-Diffusion takes."""
    return RoundingRule(iterations, BATCH, min(LARGEST_RATE, 20 / iterations), quantized_inputs=True, warmup=0.2)


class RoundedWeights(Mapping[str, Tensor]):
    """layer -> float32 [C_out, ...] on the processor, made from integers when asked for: weights that round to the learned integers,
    and lie as near to the FP ones as ``remainder`` steps from those allow.

    Weights that lie on their grid points are half a step from any other integer, which a short training never goes; those that keep
    their remainder are as near to the next integer as AdaRound found them undecided.
    """

    def __init__(self, layers: Mapping[str, RoundedLayer], remainder: float) -> None:
        self._layers, self._remainder = layers, remainder

    @torch.no_grad()
    def __getitem__(self, name: str) -> Tensor:
        return torch.cat([part.near_source(self._remainder) for part in self._layers[name].parts], dim=1).cpu()

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


def reconstructed_weights(
    job: QuantizationJob,
    bits: Mapping[str, int],
    latents: LatentDataset,
    device: torch.device,
    call_weights: Tensor | None = None,
) -> Mapping[str, Tensor]:
    """Weights on the recipe's symmetric grids, each within one step of the FP one. Activations are in float meanwhile.

    Finished parts of the network are kept in the job's work folder, so that an interrupted run goes on with the others.

    Args:
        bits: bit-width of every layer to round.
        call_weights: of the calls, [T] with mean 1; a call is seen the more often the more it weighs. None: all alike.

    Returns:
        layer -> float32 [C_out, ...], on the CPU.
    """
    start = job.recipe.training.start
    rule = rounding_rule(start.iterations)
    shares = None if call_weights is None else draw_shares(call_weights)
    pairs = random_pairs(latents, start.samples, np.random.default_rng([job.seed, 14]), shares)
    calls = read_calls(latents, *pairs, torch.device("cpu"))
    network = build_rounded(job, bits, device, search=job.recipe.weights.search, split_skips=False, attention=False)
    generator = torch.Generator().manual_seed(job.seed)
    kept = FinishedUnits(finished_parts(job), generator)
    learn = partial(learn_rounding, rule=rule, generator=generator)
    detail = f"({rule.iterations} iterations a unit, {calls.count} samples)"
    with waiting_room(device, job.compute.waiting_dtype, job.compute.waiting, job.work) as room:
        reconstruct(job, network, calls, learn, rule.quantized_inputs, WEIGHTS_STAGE, detail, room, kept)
    return RoundedWeights(network.layers, start.remainder)


def reconstructed_stage(job: QuantizationJob, prompts: int) -> Stage:
    """What :func:`reconstructed_weights` announces and does.

    Args:
        prompts: of the latent set.
    """
    start = job.recipe.training.start
    samples = sample_count(prompts * len(job.plan.calls), job.branches, start.samples)
    search = search_pieces([layer.weight_shape for layer in job.layers], job.recipe.weights.search)
    return Reconstruction(job, job.layers, samples).weights_stage(rounding_rule(start.iterations), search)
