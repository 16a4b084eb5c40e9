"""What draws pictures: a U-Net in torch, or the components of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from s2p_converters.unet import StepUNet
from s2p_mobile.models import Model
from s2p_runtime.backends import Array32, Backend
from s2p_runtime.bundle import Bundle
from s2p_runtime.drawing import bundle_tokenizer, decode_latents
from s2p_runtime.plan import SamplingPlan

TORCH_BATCH = 8


class PictureMaker(Protocol):
    """Draws pictures under one plan.

    Attributes:
        name: for messages.
        plan, guidance: what it draws with; with guidance above 1 a prompt has two texts, the empty one first.
        latent_shape: [1, C, H, W] of one prompt.
        batch: how many prompts one U-Net call takes at most.
    """

    name: str
    plan: SamplingPlan
    guidance: float
    latent_shape: tuple[int, int, int, int]
    batch: int

    def embed(self, texts: Sequence[str]) -> Array32:
        """N texts -> embeddings [N, S, D]."""
        ...

    def predict(self, sample: Array32, call: int, embeddings: Array32) -> Array32:
        """Raw U-Net output for scaled states [B, C, H, W] and embeddings [B, S, D]."""
        ...

    def decode(self, states: Array32) -> Array32:
        """Final states [N, C, H, W] -> decoder outputs [N, 3, 8H, 8W] in [-1, 1]."""
        ...


class TorchMaker:
    """A step graph with the FP model's text encoder and decoder (a checkpoint carries these untouched)."""

    def __init__(
        self, name: str, model: Model, unet: StepUNet, plan: SamplingPlan, guidance: float, device: str = "cpu"
    ) -> None:
        """
        Args:
            unet: is moved to the device and to float32.
            device: torch device of the U-Net.
        """
        self.name, self.plan, self.guidance, self.batch = name, plan, guidance, TORCH_BATCH
        latents = model.latents
        self.latent_shape = (1, latents.channels, latents.height, latents.width)
        self._model, self._unet, self._device = model, unet.float().to(device).eval(), device

    def embed(self, texts: Sequence[str]) -> Array32:
        """See :class:`PictureMaker`."""
        return self._model.embed(np.concatenate([self._model.token_ids(text) for text in texts]))

    @torch.no_grad()
    def predict(self, sample: Array32, call: int, embeddings: Array32) -> Array32:
        """See :class:`PictureMaker`."""
        inputs = (torch.from_numpy(sample), torch.tensor([call]), torch.from_numpy(embeddings))
        output: Array32 = self._unet(*(tensor.to(self._device) for tensor in inputs)).cpu().numpy()
        return output

    def decode(self, states: Array32) -> Array32:
        """See :class:`PictureMaker`."""
        return self._model.decode(states)


class BackendMaker:
    """A bundle on a backend: its own text encoder, U-Net and decoder, whose batch size is fixed to one prompt."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        manifest = bundle.manifest
        self.name, self.plan, self.guidance, self.batch = bundle.folder.name, manifest.plan, manifest.guidance, 1
        latents = manifest.latents
        self.latent_shape = (1, latents.channels, latents.height, latents.width)
        self._bundle, self._backend, self._tokenizer = bundle, backend, bundle_tokenizer(bundle)

    def embed(self, texts: Sequence[str]) -> Array32:
        """See :class:`PictureMaker`."""
        ids = [np.array([self._tokenizer.encode(text)], np.int32) for text in texts]
        return np.concatenate([self._backend.encode_text(row) for row in ids])

    def predict(self, sample: Array32, call: int, embeddings: Array32) -> Array32:
        """See :class:`PictureMaker`."""
        return self._backend.predict(sample, call, embeddings)

    def decode(self, states: Array32) -> Array32:
        """See :class:`PictureMaker`."""
        return np.concatenate([decode_latents(self._bundle, self._backend, state[None]) for state in states])
