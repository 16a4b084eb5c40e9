"""Time path of a job: tables from the FP time path, or from a quantized one for comparison."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2p_converters.core.graph import StepTables
from s2p_converters.core.packing import integer_range
from s2p_mobile.quantize.grid import quantize_weight, round_to_grid, snap_activation_scale, weight_scale
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.recipes import Recipe
from s2p_mobile.sources.time_tables import resnets
from s2p_runtime.errors import S2PError


def job_time_path(job: QuantizationJob) -> StepTables:
    """Time rows of the job's plan, float32, and what a prompt adds to them.

    With ``time: quantized`` the layers of the time path are computed as a method without precalculated time information runs
    them: weights rounded to the recipe's grid, inputs rounded with one scale for all calls (from the largest magnitude).
    The result is a table all the same, because the path depends on nothing but the call.

    Raises:
        S2PError: a quantized time path is asked of a family whose time path depends on the prompt.
    """
    conditioner, timesteps = job.model.conditioner, job.plan.timesteps
    if job.recipe.time == "table":
        return conditioner.step_tables(job.model.unet, timesteps)
    if not conditioner.shares_time_table:
        raise S2PError(
            f"recipe {job.recipe.name} quantizes the time path, which {job.model.family.name} computes in float for every prompt",
            "use time: table",
        )
    return StepTables(_quantized_time_tables(job.model.unet, timesteps, job.recipe))


@torch.no_grad()
def _quantized_time_tables(unet: nn.Module, timesteps: list[float], recipe: Recipe) -> dict[str, Tensor]:
    embedding = unet.get_submodule("time_embedding")
    hidden = unet.get_submodule("time_proj")(torch.tensor(timesteps, dtype=torch.float32))
    hidden = F.silu(_rounded_linear(embedding.get_submodule("linear_1"), hidden, recipe))
    hidden = F.silu(_rounded_linear(embedding.get_submodule("linear_2"), hidden, recipe))
    return {f"{name}.time": _rounded_linear(resnet.time_emb_proj, hidden, recipe) for name, resnet in resnets(unet)}


def _rounded_linear(layer: nn.Module, x: Tensor, recipe: Recipe) -> Tensor:
    """A linear layer on the recipe's grids: x [T, C_in] -> [T, C_out]."""
    assert isinstance(layer, nn.Linear)
    weight = layer.weight.data
    scale = weight_scale(weight, recipe.weights.bits, recipe.weights.search)
    integers = torch.from_numpy(quantize_weight(weight, scale, recipe.weights.bits)).float()
    bits = recipe.activations.bits
    if bits is not None:
        step = snap_activation_scale(x.abs().max() / integer_range(bits)[1])
        x = round_to_grid(x, step, bits) * step
    return F.linear(x, integers * scale[:, None], layer.bias)
