"""What a Core ML program is fed: the same values under the names and in the shapes that its layout asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.component import Component
from s2p_runtime.plan import SamplingPlan

Array32 = NDArray[np.float32]
Feeds = dict[str, NDArray[Any]]


def text_feeds(component: Component, input_ids: NDArray[np.int32]) -> Feeds:
    """Token ids [1, N] under the name and in the type that the text encoder asks for."""
    port = component.inputs[0]
    return {port.name: input_ids.astype(port.dtype)}


def told_timestep(timestep: float) -> int:
    """The integer that Apple's pipeline passes for a call's timestep; it knows no others."""
    return round(timestep)


def unet_feeds(component: Component, plan: SamplingPlan, sample: Array32, step: int, embeddings: Array32) -> Feeds:
    """Inputs of one U-Net call: sample [B, C, H, W], call index, embeddings [B, N, D].

    A U-Net in Apple's layout has ``timestep`` [B] in place of ``step``, and takes the embeddings as [B, D, 1, N].
    """
    if all(port.name != "timestep" for port in component.inputs):
        return {"sample": sample, "step": np.array([step], np.int32), "encoder_hidden_states": embeddings}
    timestep = np.full(sample.shape[0], told_timestep(plan.calls[step].timestep), np.float32)
    hidden = np.ascontiguousarray(embeddings.transpose(0, 2, 1)[:, :, None, :])
    return {"sample": sample, "timestep": timestep, "encoder_hidden_states": hidden}


def decoder_feeds(component: Component, latents: Array32) -> Feeds:
    """Scaled latents [1, C, H, W] under the name that the decoder asks for."""
    return {component.inputs[0].name: latents}
