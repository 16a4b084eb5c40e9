"""Precomputed time information: what the time MLP and the per-resnet projections give at each call of a plan."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from s2p_converters.core.graph import TimeNetwork, UNetStructure, empty_network
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.resnet import ResnetBlock2D


def resnets(unet: nn.Module) -> Iterator[tuple[str, ResnetBlock2D]]:
    """The resnets of a diffusers U-Net by name."""
    with quiet_import():
        from diffusers.models.resnet import ResnetBlock2D

    return ((name, module) for name, module in unet.named_modules() if isinstance(module, ResnetBlock2D))


@torch.no_grad()
def time_embeddings(unet: UNet2DConditionModel, timesteps: Sequence[float]) -> Tensor:
    """The time MLP's output at every timestep, float64 [T, E].

    Args:
        unet: the original U-Net; it is not changed.
        timesteps: one per call, T of them.
    """
    embed = copy.deepcopy(unet.time_embedding).double()
    # The sinusoid is computed by diffusers in float32 and enters the MLP in the sample's dtype: the same bits here.
    embedding: Tensor = embed(unet.time_proj(torch.tensor(list(timesteps), dtype=torch.float32)).double())
    return embedding


@torch.no_grad()
def time_tables(unet: UNet2DConditionModel, timesteps: Sequence[float]) -> dict[str, Tensor]:
    """``time_emb_proj(silu(time_embedding(t)))`` of every resnet at every timestep, computed in float64.

    Args:
        unet: the original U-Net, whose time embedding depends on nothing but the timestep; it is not changed.
        timesteps: one per call, T of them.

    Returns:
        ``<resnet>.time`` -> float32 [T, C_out].

    Raises:
        S2PError: the time embedding depends on the prompt as well: :func:`time_network` is for those.
    """
    if unet.config.addition_embed_type is not None:
        raise S2PError("this model's time table belongs to the prompt and is made by a network", "take that instead")
    embedding = time_embeddings(unet, timesteps)
    if unet.time_embed_act is not None:
        embedding = unet.time_embed_act(embedding)
    activated = torch.nn.functional.silu(embedding)
    tables = {}
    for name, resnet in resnets(unet):
        projection = resnet.time_emb_proj
        table = torch.nn.functional.linear(activated, projection.weight.double(), projection.bias.double())
        tables[f"{name}.time"] = table.float()
    return tables


@torch.no_grad()
def time_network(unet: UNet2DConditionModel, timesteps: Sequence[float]) -> TimeNetwork:
    """A time path that is told a pooled text, with the timesteps built in, float64: (pooled text, time ids) -> time table.

    Args:
        unet: a U-Net with ``addition_embed_type = text_time``; it is not changed.
        timesteps: one per call, T of them.
    """
    network = empty_network(UNetStructure.from_config(unet.config), unet.config, len(timesteps))
    projections = [unet.get_submodule(name.removesuffix(".time")).time_emb_proj for name in network.names]
    network.double().embeddings.copy_(time_embeddings(unet, timesteps))
    network.add_embedding.load_state_dict(unet.add_embedding.state_dict())
    network.projection.weight.copy_(torch.cat([projection.weight for projection in projections]))
    network.rows.copy_(torch.cat([projection.bias for projection in projections]))
    # The frequencies stay float32 numbers, as in diffusers; the angles are rounded to float32 there and not here.
    return network.eval().requires_grad_(False)
