"""Precomputed time information: what the time MLP and the per-resnet projections give at each call of a plan."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from s2p_runtime.quiet import quiet_import

with quiet_import():
    from diffusers import UNet2DConditionModel
    from diffusers.models.resnet import ResnetBlock2D


@torch.no_grad()
def time_tables(unet: UNet2DConditionModel, timesteps: Sequence[float]) -> dict[str, Tensor]:
    """``time_emb_proj(silu(time_embedding(t)))`` of every resnet at every timestep, computed in float64.

    Args:
        unet: the original U-Net; it is not changed.
        timesteps: one per call, T of them.

    Returns:
        ``<resnet>.time`` -> float32 [T, C_out].
    """
    embed = copy.deepcopy(unet.time_embedding).double()
    # The sinusoid is computed by diffusers in float32 and enters the MLP in the sample's dtype: the same bits here.
    sinusoid = unet.time_proj(torch.tensor(list(timesteps), dtype=torch.float32)).double()
    embedding = embed(sinusoid)
    tables = {}
    for name, module in unet.named_modules():
        if isinstance(module, ResnetBlock2D):
            projection = module.time_emb_proj
            activated = torch.nn.functional.silu(embedding)
            table = torch.nn.functional.linear(activated, projection.weight.double(), projection.bias.double())
            tables[f"{name}.time"] = table.float()
    return tables
