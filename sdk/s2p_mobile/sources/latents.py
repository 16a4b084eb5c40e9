"""What a model's VAE takes, as the pipeline of its family decodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from s2p_converters.core.graph import UNetStructure
from s2p_mobile.sources.families import Family
from s2p_mobile.sources.origin import title
from s2p_runtime.bundle import LatentSpec
from s2p_runtime.contract import first_problem
from s2p_runtime.errors import S2PError


def latent_spec(folder: Path, family: Family, structure: UNetStructure, vae_config: Mapping[str, Any]) -> LatentSpec:
    """Shape of the latents and how they are decoded.

    Of diffusers' pipelines, that of SDXL takes ``latents_mean`` and ``latents_std`` where the VAE has both; those of Stable Diffusion
    1.x and 2.x take neither, and none of them takes ``shift_factor``.

    Args:
        structure: of the denoiser, with the size of the latents.

    Raises:
        S2PError: numbers that are out of range or not one for each channel.
    """
    mean, std = vae_config.get("latents_mean"), vae_config.get("latents_std")
    statistics = family.takes_statistics and mean is not None and std is not None
    height, width = structure.sample_size
    try:
        return LatentSpec(
            channels=structure.in_channels,
            height=height,
            width=width,
            scaling_factor=vae_config.get("scaling_factor", family.scaling_factor),
            shift_factor=(vae_config.get("shift_factor") or 0.0) if family.takes_shift else 0.0,
            mean=mean if statistics else None,
            std=std if statistics else None,
        )
    except ValidationError as error:
        raise S2PError(
            f"vae/config.json of {title(folder)} is not valid ({first_problem(error)})", "export the model again with diffusers"
        ) from error
