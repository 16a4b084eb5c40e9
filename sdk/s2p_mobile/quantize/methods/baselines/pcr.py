"""PCR (Tang et al., ECCV 2024): a quantizer for every call, each calibrated on the trajectory of the calls already quantized; relaxed
widths at a few calls (docs/method-baselines.md)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

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
from s2p_mobile.quantize.rounding.affine import grid_pieces
from s2p_mobile.quantize.rounding.calls import random_pairs, read_calls, sample_count
from s2p_mobile.quantize.rounding.learned import RoundingRule, reconstruct_weights, scaled_rounding
from s2p_mobile.quantize.rounding.observers import RunningRanges, observing, range_pieces
from s2p_mobile.quantize.rounding.rounded import RoundedNetwork, build_rounded
from s2p_mobile.quantize.rounding.stages import Reconstruction
from s2p_mobile.quantize.stages import Passes, Stage
from s2p_mobile.sources.predictor import Predictor
from s2p_mobile.sources.trajectory import encode_prompt, float_unet, stacked_conditions
from s2p_runtime.walker import Walker, guide_runs

PROMPTS = 200
ROUNDING = RoundingRule(iterations=2_000, batch=32, learning_rate=1e-3, quantized_inputs=False, warmup=0.0)
RELAXED_BITS = 10
MOMENTUM = 0.99
"""Share of the past in a running range: torch's observers move by a hundredth, ``averaging_constant`` 0.01."""
PROMPTS_AT_A_TIME = 4
"""Of a calibration batch in the authors' code."""
CALIBRATION_STAGE = "calibrating on quantized trajectories"


class ProgressiveCalibration(Baseline):
    """PCR."""

    name = "pcr"
    title = "PCR: a quantizer for every call, calibrated on the calls quantized before it"

    def run(self, job: QuantizationJob) -> QuantizedUNet:
        """Quantize as PCR does; ``baselines.relaxing`` switches the relaxed calls.

        Raises:
            S2PError: ``job.latents`` is of another model, plan, guidance, seed or prompts; no space left.
        """
        rule = job.recipe.baselines
        with baseline_latents(job) as (latents, device), baseline_room(job, device) as room:
            pairs = random_pairs(latents, rule.samples, np.random.default_rng([job.seed, 12]))
            calls = read_calls(latents, *pairs, device)
            bits = baseline_bits(job, float_unet(job.model, job.plan).to(device), edges=False)
            network = build_rounded(job, bits, device, search="minmax", split_skips=False, attention=False)
            reconstruct_weights(job, network, calls, ROUNDING, room)
            if network.activation_bits is not None:
                network.add_input_grids()
                share = published_share(job) if rule.relaxed is None else rule.relaxed
                relaxed = relaxed_calls(len(job.plan.calls), share) if rule.relaxing else frozenset[int]()
                calibrate_progressively(job, network, relaxed)
            return network.export()

    def stages(self, job: QuantizationJob) -> Sequence[Stage]:
        """See :class:`~s2p_mobile.quantize.methods.method.Method`."""
        pairs = prompts_at_hand(job) * len(job.plan.calls)
        layers = baseline_layers(job, edges=False)
        network = Reconstruction(job, layers, sample_count(pairs, job.branches, job.recipe.baselines.samples))
        search = grid_pieces([layer.weight_shape for layer in layers], "minmax")
        stages = [*input_stages(job), network.weights_stage(scaled_rounding(job, ROUNDING), search)]
        if job.recipe.activations.bits is not None:
            stages.append(_calibration_stage(job, network))
        return stages


def published_share(job: QuantizationJob) -> tuple[float, float]:
    """Share of diffusion time that the authors relax: the last fifth of the calls for SD, the first for SDXL. Their code compares
    with an index that is 0 at noise, so the paper's "0.8 to 1" of SD are its cleanest states."""
    return (0.0, 0.2) if job.structure.text_time is None else (0.8, 1.0)


def relaxed_calls(calls: int, share: tuple[float, float]) -> frozenset[int]:
    """Calls whose diffusion time ``(T - i) / T`` (1 is noise) lies in ``(share[0], share[1]]``."""
    low, high = share
    return frozenset(i for i in range(calls) if low + 1e-9 < (calls - i) / calls <= high + 1e-9)


def calibrate_progressively(job: QuantizationJob, network: RoundedNetwork, relaxed: frozenset[int]) -> None:
    """Set the grids of call 0, 1, ...: each call's ranges are seen on states that the quantized calls before it led to.

    All trajectories wait at a call until its grids are set, which is the same as beginning from noise for every call.
    """
    assert network.activation_bits is not None
    student, texts = network.student, job.prompts[:PROMPTS]
    prompts = [encode_prompt(job.model, text, job.seed + k, job.guidance) for k, text in enumerate(texts)]
    groups = [prompts[k : k + PROMPTS_AT_A_TIME] for k in range(0, len(prompts), PROMPTS_AT_A_TIME)]
    walkers = [Walker.from_seeds(job.plan, [prompt.seed for prompt in group], job.latent_shape) for group in groups]
    predictors = [Predictor(student, stacked_conditions(group), job.compute.samples) for group in groups]

    with torch.no_grad(), job.progress.stage(CALIBRATION_STAGE, network.calls) as advance:
        for call in range(network.calls):
            ranges = RunningRanges(MOMENTUM, RELAXED_BITS if call in relaxed else network.activation_bits, call)
            with observing(network, ranges.update):
                for walker, predictor in zip(walkers, predictors, strict=True):
                    predictor(walker.scaled, call)
            for walker, predictor in zip(walkers, predictors, strict=True):
                walker.advance(guide_runs(predictor(walker.scaled, call), job.guidance))
            advance(f"({len(prompts)} prompts)")


def _calibration_stage(job: QuantizationJob, network: Reconstruction) -> Stage:
    """What :func:`calibrate_progressively` announces and does: at each call every group of prompts passes twice."""
    prompts, calls = min(PROMPTS, len(job.prompts)), len(job.plan.calls)
    groups = -(-prompts // PROMPTS_AT_A_TIME)
    layers = [work for work in job.counted.layers if work.spec in network.layers]
    passes = Passes(2 * prompts * job.branches * calls, 2 * groups * calls, network=network.network(grids=True))
    work = range_pieces(layers, min(prompts, PROMPTS_AT_A_TIME) * job.branches, groups * calls)
    return Stage(CALIBRATION_STAGE, calls, (passes,), work)


PCR = ProgressiveCalibration()
