"""k-means palettes with mixed bit-widths chosen by the output's PSNR, activations in float, as Core ML's Stable Diffusion project
makes them (docs/method-baselines.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from s2p_converters.core.graph import StepUNet, layer_specs
from s2p_converters.core.graph.operators import FloatLayer
from s2p_converters.core.grids import GeneralLayer, LayerPart, Palette
from s2p_mobile.quantize.bits import average_bits
from s2p_mobile.quantize.holdings import holding, pass_bytes, weights_of
from s2p_mobile.quantize.host import square_sum
from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.methods.baselines.inputs import Baseline, baseline_latents, baseline_layers, input_stages
from s2p_mobile.quantize.preparation.latents import prompts_at_hand
from s2p_mobile.quantize.preparation.starting_point import planned_bits
from s2p_mobile.quantize.rounding.calls import CalibrationCalls, random_pairs, read_calls, sample_count
from s2p_mobile.quantize.rounding.palettes import palette_pieces, palettize_weight, widths_by_psnr
from s2p_mobile.quantize.stages import Passes, Stage
from s2p_mobile.sources.trajectory import float_unet
from s2p_runtime.errors import S2PError

CHOOSING_STAGE = "choosing palettes"


class Palettize(Baseline):
    """Palettes."""

    name = "palettize"
    title = "k-means palettes of weights, float activations"

    def run(self, job: QuantizationJob) -> QuantizedUNet:
        """Palettes for every layer of the recipe; activations stay in float whatever the recipe says.

        Raises:
            S2PError: the average is below the narrowest candidate; a latent set of another job.
        """
        rule = job.recipe.baselines.palettes
        candidates = tuple(sorted(set(rule.candidates)))
        with baseline_latents(job) as (latents, device):
            unet = float_unet(job.model, job.plan).to(device)
            plan = planned_bits(job, unet)
            specs = [spec for spec in layer_specs(job.structure) if spec.name in plan]
            average = average_bits(specs, plan) if rule.average_bits is None else rule.average_bits
            if average < candidates[0]:
                raise S2PError(
                    f"palettes of {average:g} bits on average are impossible with {', '.join(map(str, candidates))} bits",
                    "add a narrower candidate or raise average_bits",
                )
            samples = rule.samples * latents.branches
            calls = read_calls(latents, *random_pairs(latents, samples, np.random.default_rng([job.seed, 14])), device)
            modules = dict(unet.named_modules())
            psnr: dict[str, dict[int, float]] = {}
            palettes: dict[str, dict[int, Palette]] = {}
            with job.progress.stage(CHOOSING_STAGE, len(specs)) as advance:
                expected = _outputs(unet, calls)
                for spec in specs:
                    module = modules[spec.name]
                    assert isinstance(module, FloatLayer)
                    original = module.weight.data
                    made = {bits: palettize_weight(original.cpu().numpy(), bits) for bits in candidates}
                    psnr[spec.name] = {}
                    for bits, palette in made.items():
                        module.weight.data = torch.from_numpy(palette.values).to(original)
                        psnr[spec.name][bits] = output_psnr(_outputs(unet, calls), expected)
                    module.weight.data = original
                    palettes[spec.name] = made
                    advance()
            widths = widths_by_psnr(psnr, {spec.name: spec.weights for spec in specs}, candidates, average)
            general = {}
            for spec in specs:
                module = modules[spec.name]
                bias = None if module.bias is None else module.bias.data.cpu().numpy().astype(np.float32)
                part = LayerPart(spec.in_channels, palettes[spec.name][widths[spec.name]])
                general[spec.name] = GeneralLayer(spec, (part,), bias)
            return QuantizedUNet({}, general=general)

    def stages(self, job: QuantizationJob) -> Sequence[Stage]:
        """See :class:`~s2p_mobile.quantize.methods.method.Method`."""
        rule, layers = job.recipe.baselines.palettes, baseline_layers(job, edges=False)
        candidates = sorted(set(rule.candidates))
        samples = sample_count(prompts_at_hand(job) * len(job.plan.calls), job.branches, rule.samples * job.branches)
        looks = 1 + len(layers) * len(candidates)
        work = [piece for bits in candidates for piece in palette_pieces(layers, bits)]
        # An index and a float for each weight and candidate.
        palettes = {"palettes": 5 * len(candidates) * weights_of(job)}
        memory = holding(job, {"passes": pass_bytes(job, samples)}, palettes)
        choosing = Stage(CHOOSING_STAGE, len(layers), (Passes(looks * samples, looks),), work, memory=memory)
        return [*input_stages(job), choosing]


@torch.no_grad()
def _outputs(unet: StepUNet, calls: CalibrationCalls) -> Tensor:
    output: Tensor = unet(calls.samples, calls.calls, *calls.conditions)
    return output


def output_psnr(found: Tensor, expected: Tensor) -> float:
    """PSNR in dB over all samples, peak: the range of the expected output; infinite where equal."""
    error = square_sum(found - expected) / found.numel()
    peak = float(expected.max() - expected.min())
    return 10 * math.log10(peak**2 / error) if error else math.inf


PALETTIZE = Palettize()
