"""Measuring sensitivity on a model, and ranking layers for a recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from s2p_converters.core.graph import LayerSpec, StepUNet, layer_specs
from s2p_mobile.quantize.finished import NOTHING_KEPT, FinishedParts
from s2p_mobile.quantize.grid import search_pieces
from s2p_mobile.quantize.sensitivity.candidates import round_candidates
from s2p_mobile.quantize.sensitivity.estimators import ESTIMATORS, LayerValues, Measurement, Outlook
from s2p_mobile.quantize.sensitivity.result import LayerSensitivity, Sensitivity
from s2p_mobile.quantize.sensitivity.samples import (
    TRAJECTORIES_STAGE,
    CallSample,
    calls_together,
    collect_samples,
    mean_signal,
    samples_of,
)
from s2p_mobile.quantize.stages import Passes, Stage
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.trajectory import Prompt, encode_prompt, float_unet
from s2p_runtime.errors import S2PError
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.progress import Progress, Silent

CANDIDATE_BITS = (2, 3, 4, 5, 6, 8)
"""Widths measured unless told otherwise."""

TRAJECTORIES = 4
"""FP trajectories that samples are taken from unless told otherwise."""

OUTPUTS_STAGE = "measuring FP outputs"
CANDIDATES_STAGE = "rounding weights to every candidate"


def rank_layers(
    unet: StepUNet,
    samples: Sequence[CallSample],
    names: Sequence[str],
    name: str,
    bits: Sequence[int],
    search: str = "mse",
    seed: int = 0,
    progress: Progress | None = None,
    kept: FinishedParts = NOTHING_KEPT,
) -> LayerValues:
    """Sensitivity of layers on given U-Net calls.

    Args:
        unet: FP graph, called as ``unet(sample, step, *conditions)``; unchanged afterwards.
        samples: calls to look at.
        names: layers (modules of ``unet`` with a ``weight``).
        name: estimator.
        bits: widths to measure at.
        search: how weight scales are chosen, as in a recipe.
        seed: of the random probes.
        kept: where finished parts are kept.

    Returns:
        layer -> width -> sensitivity, in the order of ``names``.

    Raises:
        S2PError: unknown estimator, an FP output that is zero or not finite, a sensitivity not finite (names its layer).
    """
    chosen = ESTIMATORS.get(name)
    listener = progress or Silent()
    modules = dict(unet.named_modules())
    weights: dict[str, nn.Parameter] = {layer: modules[layer].weight for layer in names}
    with listener.stage(OUTPUTS_STAGE, len(samples)) as advance:
        (signal,) = kept.numbers(OUTPUTS_STAGE, f"of-{len(samples)}", lambda: [mean_signal(unet, samples, advance)])
    if not (math.isfinite(signal) and signal > 0):
        raise S2PError(f"the U-Net's output has energy {signal}, so layers cannot be ranked", "check the model's weights")
    with listener.stage(CANDIDATES_STAGE, len(weights)) as advance:
        rounded = round_candidates(weights, bits, search, advance, kept)
    values = chosen.run(Measurement(unet, weights, rounded, samples, signal, seed, listener, kept))
    for layer, widths in values.items():
        for width, value in widths.items():
            if not math.isfinite(value):
                raise S2PError(f"sensitivity of layer {layer} at {width} bits is {value}", "check the model's weights")
    return values


def rank_on_trajectories(
    unet: StepUNet,
    plan: SamplingPlan,
    prompts: Sequence[Prompt],
    guidance: float,
    shape: tuple[int, ...],
    names: Sequence[str],
    name: str,
    bits: Sequence[int],
    search: str = "mse",
    seed: int = 0,
    progress: Progress | None = None,
    kept: FinishedParts = NOTHING_KEPT,
    shares: NDArray[np.float64] | None = None,
) -> LayerValues:
    """:func:`rank_layers` on as many calls as the estimator asks for, from the FP trajectories of the first
    :data:`TRAJECTORIES` prompts; ``shares`` as :func:`collect_samples` takes them."""
    count = ESTIMATORS.get(name).samples
    samples = collect_samples(unet, plan, prompts[:TRAJECTORIES], guidance, shape, count, progress, kept, shares)
    return rank_layers(unet, samples, names, name, bits, search, seed, progress, kept)


def ranking_stages(
    name: str,
    layers: Sequence[LayerSpec],
    bits: Sequence[int],
    search: str,
    calls: int,
    prompts: int,
    branches: int,
    values: int,
) -> list[Stage]:
    """What :func:`rank_on_trajectories` announces and does.

    Args:
        layers: to be ranked.
        calls: T.
        prompts: given to it.
        branches: samples of a call.
        values: numbers of a call's scaled states, of all branches.
    """
    chosen = ESTIMATORS.get(name)
    drawn, looked = samples_of(calls, min(prompts, TRAJECTORIES), chosen.samples)
    outlook = Outlook(layers, bits, looked, branches, calls_together(values))
    shapes = [layer.weight_shape for layer in layers]
    return [
        Stage(TRAJECTORIES_STAGE, drawn, (Passes(drawn * calls * branches, drawn * calls),)),
        Stage(OUTPUTS_STAGE, looked, (Passes(looked * branches, looked),)),
        Stage(CANDIDATES_STAGE, len(layers), work=search_pieces(shapes, search, len(bits))),
        *chosen.stages(outlook),
    ]


def measure(
    model: Model,
    plan: SamplingPlan,
    prompts: Sequence[str],
    guidance: float,
    name: str,
    layers: Sequence[LayerSpec] | None = None,
    bits: Sequence[int] = CANDIDATE_BITS,
    search: str = "mse",
    count: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
    split_shortcuts: bool = True,
) -> Sensitivity:
    """Measure a model's sensitivity with one estimator.

    Args:
        prompts: FP trajectories to look at; prompt k is drawn from seed ``seed + k``.
        name: estimator.
        layers: layers to measure; all of the U-Net unless given (see ``quantization.bits.quantized_specs``).
        count: U-Net calls to look at, the estimator's own number unless given.
        device: where the U-Net runs.
        split_shortcuts: of the recipe that the result is for.

    Raises:
        S2PError: as :func:`rank_layers`; no prompts; a width outside 2 to 8.
    """
    if not prompts:
        raise S2PError("sensitivity needs at least one prompt", "give a prompt file with one prompt a line")
    if not bits or any(not 2 <= width <= 8 for width in bits):
        raise S2PError(f"candidate widths {', '.join(map(str, bits)) or '(none)'} are impossible", "give widths from 2 to 8")
    chosen = ESTIMATORS.get(name)
    structure = replace(model.structure, split_shortcuts=split_shortcuts)
    specs = list(layers) if layers is not None else layer_specs(structure)
    unet = float_unet(model, plan, structure).to(device)
    encoded = [encode_prompt(model, text, seed + k, guidance) for k, text in enumerate(prompts)]
    samples = collect_samples(unet, plan, encoded, guidance, model.latent_shape, count or chosen.samples, progress)
    widths = tuple(sorted(set(bits)))
    values = rank_layers(unet, samples, [spec.name for spec in specs], name, widths, search, seed, progress)
    return Sensitivity(
        estimator=name,
        model=model.name,
        unet_sha256=model.unet_sha256,
        scheduler=plan.scheduler,
        steps=plan.steps,
        guidance=guidance,
        embedded_guidance=model.embedded_guidance,
        prompts=min(len(encoded), count or chosen.samples),
        samples=len(samples),
        seed=seed,
        search=search,
        bits=widths,
        layers=tuple(
            LayerSensitivity(name=spec.name, weights=spec.weights, values=tuple(values[spec.name][width] for width in widths))
            for spec in specs
        ),
    )
