"""What draws pictures: a U-Net in torch, or the components of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from s2p_converters.core.graph import StepUNet
from s2p_mobile.sources.model import Model
from s2p_runtime.backends import Array32, Backend
from s2p_runtime.bundle import Bundle
from s2p_runtime.conditioning import bundle_tokenizer, conditioner_of, encode_prompt
from s2p_runtime.drawing import decode_latents
from s2p_runtime.plan import SamplingPlan

TORCH_BATCH = 8
Inputs = tuple[Array32, ...]


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

    def conditions(self, prompts: Sequence[str]) -> Inputs:
        """What the U-Net is told about N prompts, N B samples: with guidance N times the empty text, then each prompt."""
        ...

    def predict(self, sample: Array32, call: int, *conditions: Array32) -> Array32:
        """Raw U-Net output for scaled states [N B, C, H, W] under :meth:`conditions`."""
        ...

    def decode(self, states: Array32) -> Array32:
        """Final states [N, C, H, W] -> decoder outputs [N, 3, 8H, 8W] in [-1, 1]."""
        ...


class TorchMaker:
    """A step graph with the FP model's text encoder and decoder (a checkpoint carries these untouched)."""

    def __init__(
        self, name: str, model: Model, unet: StepUNet, plan: SamplingPlan, guidance: float, device: str | torch.device = "cpu"
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

    def conditions(self, prompts: Sequence[str]) -> Inputs:
        """Embeddings [N B, S, D] and, with SDXL, pooled texts [N B, P]; see :class:`PictureMaker`."""
        texts = [self._model.encode(prompt, self.guidance > 1) for prompt in prompts]
        pooled = [text.pooled for text in texts if text.pooled is not None]
        stacks = [np.stack([text.embeddings for text in texts], axis=1)] + ([np.stack(pooled, axis=1)] if pooled else [])
        return tuple(np.ascontiguousarray(stack.reshape(-1, *stack.shape[2:])) for stack in stacks)

    @torch.no_grad()
    def predict(self, sample: Array32, call: int, *conditions: Array32) -> Array32:
        """See :class:`PictureMaker`."""
        inputs = (torch.from_numpy(sample), torch.tensor([call]), *map(torch.from_numpy, conditions))
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
        self._ports = tuple(conditioner_of(manifest).inputs)

    def conditions(self, prompts: Sequence[str]) -> Inputs:
        """What the U-Net's ports take of the only prompt, in their order; see :class:`PictureMaker`."""
        (prompt,) = prompts
        return tuple(encode_prompt(self._bundle, self._backend, self._tokenizer, prompt).inputs.values())

    def predict(self, sample: Array32, call: int, *conditions: Array32) -> Array32:
        """See :class:`PictureMaker`."""
        return self._backend.predict(sample, call, dict(zip(self._ports, conditions, strict=True)))

    def decode(self, states: Array32) -> Array32:
        """See :class:`PictureMaker`."""
        return np.concatenate([decode_latents(self._bundle, self._backend, state[None]) for state in states])
