"""The parts of a pipeline around its denoiser: texts, and the VAE. Models and checkpoints share them."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.plan import image_starts
from s2p_mobile.sources.families import FAMILIES, Conditioner
from s2p_mobile.sources.modules import load_module
from s2p_mobile.sources.pixel_size import PixelSize, pixel_size
from s2p_runtime.bundle import LatentSpec
from s2p_runtime.plan import ImageStart, SamplingPlan
from s2p_runtime.quiet import quiet_import


class Components:
    """What reads texts and what makes pictures, of a folder in diffusers layout. Weights are loaded at first use, in float32.

    Attributes:
        conditioner: how texts become what the denoiser is told.
        latents: shape and scale of the VAE's latents.
    """

    def __init__(self, folder: Path, conditioner: Conditioner, latents: LatentSpec) -> None:
        self.folder, self.conditioner, self.latents = folder, conditioner, latents

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """[1, C, H, W]"""
        return self.latents.shape

    @cached_property
    def vae(self) -> Any:
        """diffusers AutoencoderKL, float32."""
        with quiet_import():
            from diffusers import AutoencoderKL
        return load_module(AutoencoderKL, self.folder / "vae")

    @property
    def picture_size(self) -> PixelSize:
        """Of the pictures that the VAE makes."""
        return pixel_size(self.latents, self.vae.config)

    def image_starts(self, plan: SamplingPlan) -> tuple[ImageStart, ...]:
        """Where runs from a picture begin under a plan that the folder's scheduler gives.

        Raises:
            S2PError: it gives no such plan, or cannot begin later than at its first call.
        """
        return image_starts(plan, self.folder / "scheduler")

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Final states [K, C, H, W] -> decoder outputs [K, 3, H_image, W_image], float32, on the processor."""
        return Autoencoder(self).decode(latents)


class Autoencoder:
    """The VAE on a device; it goes there when it is first used."""

    def __init__(self, components: Components, device: torch.device | str = "cpu") -> None:
        self._components, self._device = components, torch.device(device)

    @cached_property
    def _vae(self) -> Any:
        # A copy elsewhere: other users of the components find theirs where they left it.
        vae = self._components.vae
        return vae if self._device.type == "cpu" else copy.deepcopy(vae).to(self._device)

    @torch.no_grad()
    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Final states [K, C, H, W] -> decoder outputs [K, 3, H_image, W_image], float32."""
        scaled = torch.from_numpy(self._components.latents.decoder_input(latents)).to(self._device)
        image: NDArray[np.float32] = self._vae.decode(scaled).sample.cpu().numpy()
        return image

    @torch.no_grad()
    def encode(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """A picture [1, 3, H_image, W_image] in [-1, 1] -> its latents [1, C, H, W], float32."""
        moments = self._vae.encode(torch.from_numpy(image).to(self._device)).latent_dist.parameters
        return self._components.latents.encoded(moments.cpu().numpy())


def checkpoint_components(checkpoint: Checkpoint) -> Components:
    """The components that a checkpoint carries, untouched, of its source model.

    Raises:
        S2PError: no installed family has the checkpoint's name.
    """
    manifest = checkpoint.manifest
    family = FAMILIES.get(manifest.family)
    conditioner = family.conditioner(checkpoint.folder, manifest.tokenizer, checkpoint.structure, manifest.conditioning)
    return Components(checkpoint.folder, conditioner, manifest.latents)
