"""Guidance as an input of the time path: latent consistency models."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from s2p_runtime.quiet import quiet_import

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


def fold_guidance(unet: UNet2DConditionModel, guidance: float) -> None:
    """Build one guidance into a U-Net with ``time_cond_proj_dim`` (a latent consistency model), in place.

    The MLP begins with ``W (sinusoid + C g) + b`` with g the guidance's embedding: a constant, so ``b + W C g`` is the new bias.
    Embedding: ``get_guidance_scale_embedding`` of diffusers' LatentConsistencyModelPipeline, at guidance - 1 as it is called there.
    """
    with quiet_import():
        from diffusers import LatentConsistencyModelPipeline

    embedding = LatentConsistencyModelPipeline.get_guidance_scale_embedding(
        None, torch.tensor([guidance - 1.0]), embedding_dim=unet.config.time_cond_proj_dim
    )
    mlp = unet.time_embedding
    with torch.no_grad():
        shift = mlp.linear_1.weight.double() @ (mlp.cond_proj.weight.double() @ embedding[0].double())
        mlp.linear_1.bias.copy_((mlp.linear_1.bias.double() + shift).float())
    mlp.cond_proj = None


def guided_unet(unet: Any, guidance: float) -> Any:
    """A U-Net with one guidance built in, see :func:`fold_guidance`. All weights but those of the time embedding are the original's,
    which is not changed."""
    guided = copy.copy(unet)
    guided.__dict__["_modules"] = {**unet._modules, "time_embedding": copy.deepcopy(unet.time_embedding)}
    fold_guidance(guided, guidance)
    return guided
