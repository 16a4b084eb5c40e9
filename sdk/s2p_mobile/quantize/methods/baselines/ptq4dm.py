"""PTQ4DM (Shang et al., CVPR 2023): calibration calls with normally distributed times, symmetric grids of least squared
error, nothing learned, or the rounding of weights block by block (docs/method-baselines.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from s2p_converters.core.checkpoint import QuantizedLayer
from s2p_converters.core.graph import LayerSpec, StepUNet, layer_specs
from s2p_converters.core.graph.operators import FloatLayer
from s2p_mobile.quantize.calibration import BINS
from s2p_mobile.quantize.histogram import Histogram, activation_scale, merge
from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.methods.baselines.inputs import (
    Baseline,
    baseline_bits,
    baseline_latents,
    baseline_layers,
    baseline_room,
    input_stages,
)
from s2p_mobile.quantize.methods.rtn import ROUNDING_STAGE, round_layer, rounding_stage
from s2p_mobile.quantize.preparation.reconstructed import RoundedWeights
from s2p_mobile.quantize.rounding.affine import grid_pieces
from s2p_mobile.quantize.rounding.block_walk import run_calls
from s2p_mobile.quantize.rounding.calls import CalibrationCalls, call_of_time, normal_times, read_calls
from s2p_mobile.quantize.rounding.learned import RoundingRule, reconstruct_weights, scaled_rounding
from s2p_mobile.quantize.rounding.rounded import EDGE_BITS, build_rounded
from s2p_mobile.quantize.rounding.stages import Reconstruction
from s2p_mobile.quantize.stages import LayerWork, Passes, Piece, Stage
from s2p_mobile.quantize.stages.stage import Run
from s2p_mobile.sources.trajectory import float_unet
from s2p_runtime.progress import Progress

ROUNDING = RoundingRule(iterations=20_000, batch=32, learning_rate=1e-3, quantized_inputs=True, warmup=0.2)
"""BRECQ's settings, whose code PTQ4DM's is built on."""
SAMPLES = 1024
_BATCH = 16
RECORDING_STAGE = "recording activations of calls"


class NormalTimes(Baseline):
    """PTQ4DM."""

    name = "ptq4dm"
    title = "PTQ4DM: symmetric grids from calls with normally distributed times, nothing learned unless asked for"

    def run(self, job: QuantizationJob) -> QuantizedUNet:
        """Quantize as PTQ4DM does. All grids are symmetric, so targets can emit the result.

        Raises:
            S2PError: ``job.latents`` is of another model, plan, guidance, seed or prompts; no space left.
        """
        rule = job.recipe.baselines
        with baseline_latents(job) as (latents, device):
            unet = float_unet(job.model, job.plan).to(device)
            bits = baseline_bits(job, unet, edges=rule.operators == "own")
            specs = [spec for spec in layer_specs(job.structure) if spec.name in bits]
            modules = dict(unet.named_modules())
            widths = dict.fromkeys(bits, job.recipe.activations.bits)
            if rule.operators == "own" and job.recipe.activations.bits is not None:
                widths |= {specs[0].name: EDGE_BITS, specs[-1].name: EDGE_BITS}
            rng = np.random.default_rng([job.seed, 13])
            count = _pair_count(rule.samples, latents.branches)
            chosen = call_of_time(normal_times(count, latents.calls, rng), latents.calls).tolist()
            prompts = (rng.permutation(count) % latents.prompts).tolist()
            scales: dict[str, Tensor] = {}
            learned: Mapping[str, Tensor] = {}
            calls = read_calls(latents, prompts, chosen, device)
            if rule.reconstruction:
                with baseline_room(job, device) as room:
                    network = build_rounded(job, bits, device, search="mse", split_skips=False, attention=False)
                    reconstruct_weights(job, network, calls, ROUNDING, room)
                learned = RoundedWeights(network.layers, 0.0)
            if job.recipe.activations.bits is not None:
                histograms = input_histograms(unet, specs, calls, job.progress)
                scales = {name: activation_scale(histograms[name], widths[name] or EDGE_BITS) for name in bits}
            unet.to("cpu")
            layers: dict[str, QuantizedLayer] = {}
            with job.progress.stage(ROUNDING_STAGE, len(specs)) as advance:
                for spec in specs:
                    module = modules[spec.name]
                    assert isinstance(module, FloatLayer)
                    column = scales[spec.name].expand(len(job.plan.calls)) if scales else None
                    layers[spec.name] = round_layer(
                        spec, module, bits[spec.name], "mse", widths[spec.name], column, learned=learned.get(spec.name)
                    )
                    advance()
            return QuantizedUNet(layers)

    def stages(self, job: QuantizationJob) -> Sequence[Stage]:
        """See :class:`~s2p_mobile.quantize.methods.method.Method`."""
        rule = job.recipe.baselines
        layers = baseline_layers(job, edges=rule.operators == "own")
        stages = input_stages(job)
        samples = _pair_count(rule.samples, job.branches) * job.branches
        if rule.reconstruction:
            search = grid_pieces([layer.weight_shape for layer in layers], "mse")
            stages.append(Reconstruction(job, layers, samples).weights_stage(scaled_rounding(job, ROUNDING), search))
        if job.recipe.activations.bits is not None:
            works = [work for work in job.counted.layers if work.spec in layers]
            batches = -(-samples // _BATCH)
            passes = Passes(samples, batches)
            stages.append(Stage(RECORDING_STAGE, samples, (passes,), histogram_pieces(works, min(_BATCH, samples), batches)))
        return [*stages, rounding_stage(layers, "mse")]


def input_histograms(
    unet: StepUNet, specs: Sequence[LayerSpec], calls: CalibrationCalls, progress: Progress
) -> dict[str, Histogram]:
    """Magnitudes of every layer's input over all calibration calls."""
    found: dict[str, Histogram] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            new = _histogram(inputs[0])
            found[name] = merge([found[name], new]) if name in found else new

        return hook

    modules = dict(unet.named_modules())
    handles = [modules[spec.name].register_forward_pre_hook(keep(spec.name)) for spec in specs]
    try:
        with progress.stage(RECORDING_STAGE, calls.count) as advance:
            done = 0
            for now in run_calls(unet, calls, _BATCH):
                for _ in range(now - done):
                    advance()
                done = now
    finally:
        for handle in handles:
            handle.remove()
    return found


def _histogram(x: Tensor) -> Histogram:
    magnitudes = x.abs().float().flatten().cpu()
    largest = float(magnitudes.max())
    # Reaches are powers of two, so that histograms of different batches can be merged bin by bin.
    reach = 2.0 ** float(np.ceil(np.log2(largest))) if largest else 1.0
    return Histogram(torch.histc(magnitudes, BINS, 0.0, reach), reach, largest)


def histogram_pieces(layers: Sequence[LayerWork], batch: int, passes: int) -> list[Piece]:
    """What :func:`input_histograms` does beside the passes."""

    def prepare(values: int) -> Callable[[torch.device], Run]:
        def on(device: torch.device) -> Run:
            x = torch.randn(values, device=device)
            past = _histogram(x)
            return lambda: merge([past, _histogram(x)])

        return on

    return [
        Piece("magnitude histograms", layer.values, passes, layer.values * batch, prepare(layer.values * batch))
        for layer in layers
    ]


def _pair_count(samples: int, branches: int) -> int:
    """Calibration samples: a pair, an unconditional and a conditional call, is one here."""
    return max(1, min(SAMPLES, samples // branches))


PTQ4DM = NormalTimes()
