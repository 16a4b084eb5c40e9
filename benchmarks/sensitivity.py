"""Which layer ranking gives the best pictures at equal average bits.

    python benchmarks/sensitivity.py [--model DIR] [--count 64] [--steps 25] [--threads 2] [--results DIR] [--plot FILE.png]

Every estimator ranks the layers on FP trajectories of calibration captions; each budget is then solved for each ranking, the
weights are rounded to nearest, activations stay in float (so that only the bit plans differ), and held-out captions are drawn
with the rounded U-Net and the FP one from the same seeds. ``weight-error`` is the ranking that knows nothing of the network:
the squared rounding error itself. ``uniform`` gives every layer the same width.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from s2p_converters.core.graph import LayerSpec, StepUNet, layer_specs
from s2p_converters.core.plan import plan_for
from s2p_mobile.demo import CALIBRATION_PROMPTS, HELD_OUT_PROMPTS
from s2p_mobile.judge.evaluation.evaluate import evaluate
from s2p_mobile.judge.evaluation.source import EvaluationSource
from s2p_mobile.quantize.bits import average_bits, quantized_specs, weight_bits
from s2p_mobile.quantize.recipes import MixedRule, Recipe, WeightRule
from s2p_mobile.quantize.sensitivity import (
    CANDIDATE_BITS,
    ESTIMATORS,
    Sensitivity,
    compare,
    comparison_lines,
    measure,
    read_sensitivity,
    write_sensitivity,
)
from s2p_mobile.quantize.sensitivity.candidates import Candidates, round_candidates
from s2p_mobile.quantize.sensitivity.measure import TRAJECTORIES
from s2p_mobile.quantize.sensitivity.plot import plot_comparison
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.prompts import read_prompts
from s2p_mobile.sources.torch_artist import TorchArtist
from s2p_mobile.sources.trajectory import float_unet
from s2p_runtime.plan import SamplingPlan

METRICS = ("fid_to_fp", "ssim", "psnr")
BUDGETS: tuple[tuple[float, tuple[int, ...]], ...] = ((4.2, (4, 8)), (3.0, CANDIDATE_BITS))
"""(average bits, candidate widths)"""

Values = Mapping[str, Mapping[int, float]]


def budget_recipe(average: float, candidates: tuple[int, ...]) -> Recipe:
    """A weight-only recipe with a budget."""
    rule = MixedRule(average_bits=average, candidates=candidates)
    return Recipe(name="study", description="", weights=WeightRule(bits=4), mixed=rule)


def measured(
    model: Model, plan: SamplingPlan, specs: Sequence[LayerSpec], name: str, folder: Path, seed: int
) -> tuple[Sensitivity, str]:
    """An estimator's result and the processor time it took; a result of this model and plan in ``folder`` is used again."""
    file = folder / f"{name}.json"
    if file.exists():
        known = read_sensitivity(file)
        same = (known.unet_sha256, known.steps, known.seed) == (model.unet_sha256, plan.steps, seed)
        if same and [layer.name for layer in known.layers] == [spec.name for spec in specs] and known.bits == CANDIDATE_BITS:
            return known, "from file"
    start = time.process_time()
    found = measure(
        model,
        plan,
        read_prompts(CALIBRATION_PROMPTS)[:TRAJECTORIES],
        model.guidance,
        name,
        specs,
        seed=seed,
        split_shortcuts=False,
    )
    seconds = time.process_time() - start
    write_sensitivity(file, found, force=True)
    return found, f"{seconds:.0f} s"


def with_bits(unet: StepUNet, rounded: Candidates, bits: Mapping[str, int]) -> StepUNet:
    """A copy of the FP U-Net with rounded weights."""
    changed = copy.deepcopy(unet)
    modules = dict(changed.named_modules())
    for name, width in bits.items():
        modules[name].weight.data = rounded[name][width].value()
    return changed


def plans_of(specs: Sequence[LayerSpec], rankings: Mapping[str, Values]) -> dict[str, dict[str, int]]:
    """Label -> bits of every layer, for all budgets and rankings."""
    plans = {f"{width} bits uniform": {spec.name: width for spec in specs} for width in (3, 4)}
    for average, candidates in BUDGETS:
        for ranking, values in rankings.items():
            plans[f"{average} bits {ranking}"] = weight_bits(specs, budget_recipe(average, candidates), values)
    return plans


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="diffusers folder; the demo model when left out")
    parser.add_argument("--count", type=int, default=64, help="held-out captions to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, help="folder of sensitivity results, written and used again")
    parser.add_argument("--plot", type=Path, help="picture of all rankings (needs matplotlib)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    model = open_model(options.model)
    plan = plan_for(model.folder / "scheduler", None, options.steps)
    specs = quantized_specs(layer_specs(model.structure), budget_recipe(*BUDGETS[0]))
    unet = float_unet(model, plan)
    print(f"command: python {' '.join(sys.argv)}")
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {options.threads} threads")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.results or Path(scratch)
        results = []
        for name in ESTIMATORS.names:
            result, took = measured(model, plan, specs, name, folder, options.seed)
            results.append(result)
            print(f"{name}: {result.samples} calls, processor time {took}", flush=True)
        print("\n".join(comparison_lines(compare(results, 4))))
        if options.plot:
            plot_comparison(results, 4, options.plot, force=True)

        modules = dict(unet.named_modules())
        weights = {spec.name: modules[spec.name].weight for spec in specs}
        rounded = round_candidates(weights, CANDIDATE_BITS, "mse")
        rankings: dict[str, Values] = {result.estimator: result.by_layer() for result in results}
        rankings["weight-error"] = {
            name: {width: float(value.error().square().sum()) for width, value in widths.items()}
            for name, widths in rounded.items()
        }
        reference = TorchArtist(model.name, model, unet, plan, model.guidance)
        print(f"\n{'bit plan':<24}{'bits':>7}{'FID-to-FP':>11}{'SSIM':>8}{'PSNR dB':>9}{'latent dB':>11}")
        network = None
        for label, bits in plans_of(specs, rankings).items():
            artist = TorchArtist(label, model, with_bits(unet, rounded, bits), plan, model.guidance)
            source = EvaluationSource(label, artist, reference, model)
            found = evaluate(
                source,
                read_prompts(HELD_OUT_PROMPTS),
                seed=options.seed,
                count=options.count,
                metrics=METRICS,
                cache=folder / "pictures",
            )
            fid, ssim, psnr = (found.metrics[name].value or float("nan") for name in METRICS)
            network = found.metrics["fid_to_fp"].network
            latent = found.latent_psnr_db_per_call[-1] or float("nan")
            figures = f"{fid:>11.2f}{ssim:>8.4f}{psnr:>9.2f}{latent:>11.2f}"
            print(f"{label:<24}{average_bits(specs, bits):>7.3f}{figures}", flush=True)
        print(f"{options.count} held-out captions, {plan.steps} steps, guidance {model.guidance}; FID network: {network}")


if __name__ == "__main__":
    main()
