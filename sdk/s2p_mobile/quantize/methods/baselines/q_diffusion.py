"""Q-Diffusion (Li et al., ICCV 2023): calls strided over FP trajectories, split shortcuts, block-wise AdaRound, learned activation
scales; one scale for all calls (docs/method-baselines.md)."""

from __future__ import annotations

import numpy as np

from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.methods.baselines.inputs import baseline_bits, baseline_latents
from s2p_mobile.quantize.methods.registry import register
from s2p_mobile.quantize.rounding.affine import NORM
from s2p_mobile.quantize.rounding.calls import CalibrationCalls, read_calls, strided_pairs
from s2p_mobile.quantize.rounding.learned import RoundingRule, ScaleRule, reconstruct_scales, reconstruct_weights
from s2p_mobile.quantize.rounding.observers import RunningRanges, observing
from s2p_mobile.quantize.rounding.rounded import RoundedNetwork, build_rounded
from s2p_mobile.quantize.rounding.walk import run_calls
from s2p_mobile.sources.trajectory import float_unet
from s2p_runtime.progress import Progress

PROMPTS, STRIDE = 128, 2
ROUNDING = RoundingRule(iterations=20_000, batch=8, learning_rate=1e-3, quantized_inputs=True, warmup=0.2)
SCALES = ScaleRule(iterations=5_000, batch=8, learning_rate=4e-4, power=NORM)
SEARCH_SAMPLES, MOMENTUM = 16, 0.95


@register("q-diffusion", splits_shortcuts=False)
def q_diffusion(job: QuantizationJob) -> QuantizedUNet:
    """Quantize as Q-Diffusion does.

    Raises:
        S2PError: ``job.latents`` is of another model, plan, guidance, seed or prompts; no space left.
    """
    rule = job.recipe.baselines
    own = rule.operators == "own"
    with baseline_latents(job) as (latents, device):
        rng = np.random.default_rng([job.seed, 11])
        pairs = strided_pairs(latents, PROMPTS, STRIDE, rule.samples, rng)
        calls = read_calls(latents, *pairs, device)
        bits = baseline_bits(job, float_unet(job.model, job.plan), edges=own)
        network = build_rounded(job, bits, device, search="clip", split_skips=True, attention=own)
        reconstruct_weights(job, network, calls, ROUNDING)
        if network.activation_bits is not None:
            network.add_input_grids()
            search_ranges(network, calls, job.progress)
            reconstruct_scales(job, network, calls, SCALES)
        return network.export()


def search_ranges(network: RoundedNetwork, calls: CalibrationCalls, progress: Progress) -> None:
    """First grids by a search on 16 samples, then running ranges over all of them."""
    ranges = RunningRanges(MOMENTUM)
    first = calls.part(slice(0, SEARCH_SAMPLES))
    with progress.stage("searching activation ranges", calls.count) as advance:
        with observing(network, ranges.start):
            for _ in run_calls(network.student, first, SEARCH_SAMPLES):
                pass
        with observing(network, ranges.update):
            done = 0
            for now in run_calls(network.student, calls, SEARCH_SAMPLES):
                for _ in range(now - done):
                    advance()
                done = now
