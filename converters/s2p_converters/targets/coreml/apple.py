"""The components as the Swift pipeline of apple/ml-stable-diffusion calls them.

Names and shapes follow its ``swift/StableDiffusion/pipeline``: ``Unet.swift`` (``sample``, ``timestep`` [B],
``encoder_hidden_states`` [B, D, 1, N], one output), ``TextEncoder.swift`` (one float32 input, ``last_hidden_state``) and
``Decoder.swift`` (one input, already divided by the scale factor; one output in [-1, 1]).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from s2p_converters.core.graph import Operators, StepUNet, UNetStructure
from s2p_converters.targets.ports import tensor
from s2p_converters.targets.timesteps import call_thresholds
from s2p_runtime.component import TensorSpec


class TimestepUNet(StepUNet):
    """:class:`StepUNet` that is told the timestep and finds the call by itself, and takes Apple's text layout.

    A subclass and not a wrapper: the names of the weights stay those that the emission looks for.
    """

    thresholds: Tensor

    def __init__(self, structure: UNetStructure, tables: nn.Module, ops: Operators, timesteps: Sequence[float]) -> None:
        """
        Args:
            structure, tables, ops: see :class:`StepUNet`.
            timesteps: of the plan's calls.
        """
        super().__init__(structure, tables, ops)
        # A plan of one call has no midpoint, and a program no empty tensor: no timestep is below 0.
        self.register_buffer("thresholds", torch.tensor(call_thresholds(timesteps) or [0], dtype=torch.int32))

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:  # type: ignore[override]
        """
        Args:
            sample: scaled state, float [B, C, H, W].
            timestep: the same integer B times, float [B].
            encoder_hidden_states: text embedding, float [B, D, 1, N].

        Returns:
            Model output, float [B, C, H, W].
        """
        return super().forward(sample, call_at(timestep, self.thresholds), text_tokens(encoder_hidden_states))


def call_at(timestep: Tensor, thresholds: Tensor) -> Tensor:
    """The call that a timestep names, int32 [1]. Compared as integers: exact whatever the program's precision."""
    below = timestep.to(torch.int32)[:1] < thresholds
    return below.to(torch.int32).sum(dim=0, keepdim=True, dtype=torch.int32)


def text_tokens(encoder_hidden_states: Tensor) -> Tensor:
    """Apple's text layout [B, D, 1, N] -> [B, N, D]."""
    return encoder_hidden_states.squeeze(2).transpose(1, 2)


class FloatIdsTextEncoder(nn.Module):
    """A text encoder whose token ids come as float32, exact up to 2^24."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden: Tensor = self.encoder(input_ids.to(torch.int32))
        return hidden


def timestep_inputs(inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The U-Net's ports of the s2p layout (sample, step, encoder_hidden_states), in Apple's."""
    sample, _, hidden = inputs
    batch, tokens, width = hidden.shape
    return sample, tensor("timestep", (batch,)), tensor(hidden.name, (batch, width, 1, tokens))
