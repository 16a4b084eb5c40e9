"""FP runs: the original U-Net under a plan, call by call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s2p_converters.core.graph import Operators, StepUNet, UNetStructure, split_shortcuts
from s2p_mobile.sources.components import Components
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.time_tables import time_path
from s2p_runtime.plan import SamplingPlan, denoise, guide, initial_latents

Array32 = NDArray[np.float32]
Observer = Callable[[int, Array32, Array32], None]
"""(call index, scaled input [B, C, H, W], raw U-Net output [B, C, H, W])"""


def float_unet(model: Model, plan: SamplingPlan, structure: UNetStructure | None = None) -> StepUNet:
    """The FP U-Net as a step graph: original weights, time tables of the plan, float32.

    An SDXL model's takes the pooled text as its fourth input.

    Args:
        structure: the model's, perhaps with split shortcuts; the model's own when None.
    """
    structure = structure or model.structure
    unet = StepUNet(structure, time_path(model, plan.timesteps).rows, Operators())
    # The very tensors of the model: a large network does not fit twice, and nothing writes into an FP network's weights.
    unet.load_state_dict(split_shortcuts(model.unet.state_dict(), structure), strict=False, assign=True)
    return unet.eval().requires_grad_(False)


@dataclass(frozen=True)
class Prompt:
    """An encoded prompt.

    Attributes:
        token_ids: int32 [B, N], unconditional first when guidance is on (B = 2).
        embeddings: float32 [B, N, D].
        pooled: pooled text, float32 [B, P] (SDXL), else None.
    """

    text: str
    seed: int
    token_ids: NDArray[np.int32]
    embeddings: Array32
    pooled: Array32 | None = None


def encode_prompt(model: Components, text: str, seed: int, guidance: float, negative: str | None = None) -> Prompt:
    """Token ids and text embeddings of a prompt; with guidance above 1 the negative one goes first, the empty text when None."""
    encoded = model.encode(text, guidance > 1, negative)
    return Prompt(text, seed, encoded.token_ids, encoded.embeddings, encoded.pooled)


def stacked_pooled(prompts: Sequence[Prompt], device: torch.device | str = "cpu") -> Tensor | None:
    """Pooled text of several prompts, float32 [K, B, P]; None where the family has none."""
    pooled = [prompt.pooled for prompt in prompts if prompt.pooled is not None]
    return torch.from_numpy(np.stack(pooled)).to(device) if pooled else None


@torch.no_grad()
def run_unet(unet: StepUNet, sample: Array32, call: int, prompt: Prompt) -> Array32:
    """One raw U-Net call on a scaled state [1, C, H, W], repeated for each branch, where the U-Net is and in its own precision."""
    like = unet.conv_norm_out.weight
    batch = torch.from_numpy(np.repeat(sample, prompt.embeddings.shape[0], axis=0)).to(like)
    pooled = None if prompt.pooled is None else torch.from_numpy(prompt.pooled).to(like)
    output = unet(batch, torch.tensor([call], device=like.device), torch.from_numpy(prompt.embeddings).to(like), pooled)
    return output.to("cpu", torch.float32).numpy()


def draw_latents(
    unet: StepUNet, plan: SamplingPlan, prompt: Prompt, guidance: float, shape: tuple[int, ...], observe: Observer | None = None
) -> Array32:
    """Final state of a run from the prompt's seed, float32 [1, C, H, W]."""

    def predict(sample: Array32, call: int) -> Array32:
        output = run_unet(unet, sample, call, prompt)
        if observe is not None:
            observe(call, sample, output)
        return guide(output, guidance)

    return denoise(plan, predict, initial_latents(plan, prompt.seed, shape), prompt.seed)
