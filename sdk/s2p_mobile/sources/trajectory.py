"""FP runs: the original denoiser under a plan, call by call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from s2p_converters.core.graph import Operators, StepUNet, UNetStructure, split_shortcuts
from s2p_mobile.sources.components import Components
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.predictor import Array32, Predictor
from s2p_runtime.conditioning import TokenIds
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.walker import Walker, guide_runs

Observer = Callable[[int, Array32, Array32], None]
"""(call index, scaled state [1, C, H, W], raw output [B, C, H, W])"""


def float_unet(model: Model, plan: SamplingPlan, structure: UNetStructure | None = None) -> StepUNet:
    """The FP denoiser as a step graph: original weights, time tables of the plan, float32.

    It takes sample, call indices and the conditions of the model's :class:`Conditioner`.

    Args:
        structure: the model's, perhaps with split shortcuts; the model's own when None.
    """
    structure = structure or model.structure
    unet = model.denoiser.graph(structure, model.conditioner.step_tables(model.unet, plan.timesteps), Operators())
    # The very tensors of the model: a large network does not fit twice, and nothing writes into an FP network's weights.
    unet.load_state_dict(split_shortcuts(model.unet.state_dict(), structure), strict=False, assign=True)
    return unet.eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class Prompt:
    """An encoded prompt.

    Attributes:
        token_ids: of B texts, unconditional first when guidance is on (B = 2).
        conditions: what the denoiser is told, float32 [B, ...] each.
    """

    text: str
    seed: int
    token_ids: TokenIds
    conditions: tuple[Array32, ...]


def encode_prompt(model: Components, text: str, seed: int, guidance: float, negative_prompt: str | None = None) -> Prompt:
    """What a prompt tells the denoiser; with guidance above 1 the negative prompt, or the empty one, goes first."""
    encoded = model.conditioner.encode(text, negative_prompt, guided=guidance > 1)
    return Prompt(text, seed, encoded.token_ids, encoded.conditions)


def stacked_conditions(prompts: Sequence[Prompt]) -> tuple[Tensor, ...]:
    """Conditions of K prompts, float32 [K, B, ...] each."""
    columns = zip(*(prompt.conditions for prompt in prompts), strict=True)
    return tuple(torch.from_numpy(np.stack(column)) for column in columns)


def draw_latents(
    unet: StepUNet, plan: SamplingPlan, prompt: Prompt, guidance: float, shape: tuple[int, ...], observe: Observer | None = None
) -> Array32:
    """Final state of a run from the prompt's seed, float32 [1, C, H, W]."""
    predictor = Predictor(unet, stacked_conditions([prompt]))

    def predict(scaled: Array32, call: int) -> Array32:
        outputs = predictor(scaled, call)
        if observe is not None:
            observe(call, scaled, outputs[0])
        return guide_runs(outputs, guidance)

    return Walker.from_seeds(plan, [prompt.seed], shape).run(predict)
