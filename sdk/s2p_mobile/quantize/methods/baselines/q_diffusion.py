"""Q-Diffusion (Li et al., ICCV 2023): calls strided over FP trajectories, split shortcuts, block-wise AdaRound, learned activation
scales; one scale for all calls (docs/method-baselines.md)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.methods.baselines.inputs import (
    Baseline,
    baseline_bits,
    baseline_latents,
    baseline_layers,
    baseline_room,
    input_stages,
)
from s2p_mobile.quantize.preparation.latents import prompts_at_hand
from s2p_mobile.quantize.rounding.affine import NORM, grid_pieces
from s2p_mobile.quantize.rounding.block_walk import run_calls
from s2p_mobile.quantize.rounding.calls import CalibrationCalls, read_calls, sample_count, strided_pairs
from s2p_mobile.quantize.rounding.learned import (
    RoundingRule,
    ScaleRule,
    reconstruct_scales,
    reconstruct_weights,
    scaled_rounding,
    scaled_scales,
)
from s2p_mobile.quantize.rounding.observers import RunningRanges, observing, range_pieces, search_pieces
from s2p_mobile.quantize.rounding.rounded import RoundedNetwork, build_rounded
from s2p_mobile.quantize.rounding.stages import Reconstruction
from s2p_mobile.quantize.stages import Passes, Stage
from s2p_mobile.sources.trajectory import float_unet
from s2p_runtime.progress import Progress

PROMPTS, STRIDE = 128, 2
ROUNDING = RoundingRule(iterations=20_000, batch=8, learning_rate=1e-3, quantized_inputs=True, warmup=0.2)
SCALES = ScaleRule(iterations=5_000, batch=8, learning_rate=4e-4, power=NORM)
SEARCH_SAMPLES, MOMENTUM = 16, 0.95
RANGES_STAGE = "searching activation ranges"


class QDiffusion(Baseline):
    """Q-Diffusion."""

    name = "q-diffusion"
    title = "Q-Diffusion: AdaRound and learned activation scales, one scale for all calls"

    def run(self, job: QuantizationJob) -> QuantizedUNet:
        """Quantize as Q-Diffusion does.

        Raises:
            S2PError: ``job.latents`` is of another model, plan, guidance, seed or prompts; no space left.
        """
        rule = job.recipe.baselines
        own = rule.operators == "own"
        with baseline_latents(job) as (latents, device), baseline_room(job, device) as room:
            rng = np.random.default_rng([job.seed, 11])
            pairs = strided_pairs(latents, PROMPTS, STRIDE, rule.samples, rng)
            calls = read_calls(latents, *pairs, device)
            bits = baseline_bits(job, float_unet(job.model, job.plan).to(device), edges=own)
            network = build_rounded(job, bits, device, search="clip", split_skips=True, attention=own)
            reconstruct_weights(job, network, calls, ROUNDING, room)
            if network.activation_bits is not None:
                network.add_input_grids()
                search_ranges(network, calls, job.progress)
                reconstruct_scales(job, network, calls, SCALES, room)
            return network.export()

    def stages(self, job: QuantizationJob) -> Sequence[Stage]:
        """See :class:`~s2p_mobile.quantize.methods.method.Method`."""
        rule = job.recipe.baselines
        own = rule.operators == "own"
        pairs = min(PROMPTS, prompts_at_hand(job)) * -(-len(job.plan.calls) // STRIDE)
        layers = baseline_layers(job, edges=own)
        network = Reconstruction(job, layers, sample_count(pairs, job.branches, rule.samples), own)
        search = grid_pieces([layer.weight_shape for layer in layers], "clip")
        stages = [*input_stages(job), network.weights_stage(scaled_rounding(job, ROUNDING), search)]
        if job.recipe.activations.bits is not None:
            stages += [_ranges_stage(job, network), network.scales_stage(scaled_scales(job, SCALES))]
        return stages


def search_ranges(network: RoundedNetwork, calls: CalibrationCalls, progress: Progress) -> None:
    """First grids by a search on 16 samples, then running ranges over all of them."""
    ranges = RunningRanges(MOMENTUM)
    first = calls.part(slice(0, SEARCH_SAMPLES))
    with progress.stage(RANGES_STAGE, calls.count) as advance:
        with observing(network, ranges.start):
            for _ in run_calls(network.student, first, SEARCH_SAMPLES):
                pass
        with observing(network, ranges.update):
            done = 0
            for now in run_calls(network.student, calls, SEARCH_SAMPLES):
                for _ in range(now - done):
                    advance()
                done = now


def _ranges_stage(job: QuantizationJob, network: Reconstruction) -> Stage:
    """What :func:`search_ranges` announces and does."""
    first, batches = min(SEARCH_SAMPLES, network.samples), -(-network.samples // SEARCH_SAMPLES)
    layers = [work for work in job.counted.layers if work.spec in network.layers]
    passes = Passes(first + network.samples, 1 + batches, network=network.network(grids=True))
    work = [*search_pieces(layers, first), *range_pieces(layers, SEARCH_SAMPLES, batches)]
    return Stage(RANGES_STAGE, network.samples, (passes,), work)


Q_DIFFUSION = QDiffusion()
