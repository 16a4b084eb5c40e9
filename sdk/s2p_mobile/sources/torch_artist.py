"""Models and checkpoints as artists: a step graph in torch between a text encoder and a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.graph import StepUNet
from s2p_converters.core.reference import checkpoint_unet
from s2p_mobile.sources.components import Autoencoder, Components, checkpoint_components
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.predictor import Array32
from s2p_mobile.sources.trajectory import float_unet
from s2p_runtime.plan import ImageStart, SamplingPlan

TORCH_BATCH = 8


class TorchArtist:
    """A step graph with the components around it. See :class:`s2p_runtime.artist.Artist`."""

    def __init__(
        self,
        name: str,
        components: Components,
        unet: StepUNet,
        plan: SamplingPlan,
        guidance: float,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            unet: is moved to the device and to float32.
            device: torch device of the U-Net and of the VAE.
        """
        self.name, self.plan, self.guidance, self.batch = name, plan, guidance, TORCH_BATCH
        self.latent_shape = components.latent_shape
        self._components, self._unet, self._device = components, unet.float().to(device).eval(), device
        self._vae = Autoencoder(components, device)

    def conditions(self, prompts: Sequence[str], negative_prompt: str | None = None) -> tuple[Array32, ...]:
        """See :class:`s2p_runtime.artist.Artist`."""
        conditioner, guided = self._components.conditioner, self.guidance > 1
        encoded = [conditioner.encode(prompt, negative_prompt, guided=guided).conditions for prompt in prompts]
        return tuple(np.concatenate(column) for column in zip(*encoded, strict=True))

    @torch.no_grad()
    def predict(self, samples: Array32, call: int, *conditions: Array32) -> Array32:
        """See :class:`s2p_runtime.artist.Artist`."""
        inputs = (torch.from_numpy(samples), torch.tensor([call]), *map(torch.from_numpy, conditions))
        output: Array32 = self._unet(*(tensor.to(self._device) for tensor in inputs)).cpu().numpy()
        return output

    def decode(self, states: Array32) -> Array32:
        """See :class:`s2p_runtime.artist.Artist`."""
        return self._vae.decode(states)

    def image_starts(self) -> tuple[ImageStart, ...]:
        """See :class:`s2p_runtime.artist.Artist`."""
        return self._image_starts

    @cached_property
    def _image_starts(self) -> tuple[ImageStart, ...]:
        """Probing takes as long as a few calls of a small U-Net, and every picture asks."""
        return self._components.image_starts(self.plan)

    @property
    def picture_size(self) -> tuple[int, int]:
        """See :class:`s2p_runtime.artist.Artist`."""
        size = self._components.picture_size
        return size.width, size.height

    def encode(self, image: Array32) -> Array32:
        """See :class:`s2p_runtime.artist.Artist`."""
        return self._vae.encode(image)

    def tokens_dropped(self, prompt: str) -> int:
        """See :class:`s2p_runtime.artist.Artist`."""
        return self._components.conditioner.tokens_dropped(prompt)


def model_artist(model: Model, plan: SamplingPlan, guidance: float, device: torch.device | str = "cpu") -> TorchArtist:
    """An FP model under a plan."""
    return TorchArtist(model.name, model, float_unet(model, plan), plan, guidance, device)


def checkpoint_artist(
    name: str, checkpoint: Checkpoint, components: Components | None = None, device: torch.device | str = "cpu"
) -> TorchArtist:
    """A checkpoint with its integers.

    Args:
        components: of the model that it was made from, so that they are in memory once; its own when None.
    """
    manifest = checkpoint.manifest
    unet = checkpoint_unet(checkpoint)
    return TorchArtist(name, components or checkpoint_components(checkpoint), unet, manifest.plan, manifest.guidance, device)
