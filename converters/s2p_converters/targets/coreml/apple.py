"""The components as the Swift pipeline of apple/ml-stable-diffusion calls them.

Names and shapes follow its ``swift/StableDiffusion/pipeline``: ``Unet.swift`` (``sample``, ``timestep`` [B],
``encoder_hidden_states`` [B, D, 1, N], one output), ``TextEncoder.swift`` (one float32 input, ``last_hidden_state``) and
``Decoder.swift`` (one input, already divided by the scale factor; one output in [-1, 1]).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from s2p_converters.core.graph import Operators, StepTables, StepUNet, UNetStructure
from s2p_converters.targets.ports import tensor
from s2p_runtime.component import TensorSpec
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.coreml.feeds import told_timestep


def call_thresholds(timesteps: Sequence[float]) -> list[int]:
    """Integers b_k such that the call nearest to an integer timestep t is the number of k with ``t < b_k``.

    ``b_k`` is the midpoint of calls k and k + 1, rounded up, which changes no comparison with an integer; of two equally near
    calls the noisier one is taken. Calls at the same timestep cannot be told apart: the first of them stands for all.

    Args:
        timesteps: of the plan's calls, not negative.

    Returns:
        One integer less than there are calls.

    Raises:
        S2PError: a timestep is above the one before it.
    """
    if any(later > earlier for earlier, later in itertools.pairwise(timesteps)):
        raise S2PError(
            "the plan's timesteps rise, so a timestep does not name a call", "quantize with another `scheduler`", "scheduler"
        )
    thresholds = []
    following = 0  # No timestep is below it: calls that repeat the last timestep are never chosen.
    for earlier, later in zip(reversed(timesteps[:-1]), reversed(timesteps[1:]), strict=True):
        if later < earlier:
            following = math.ceil((earlier + later) / 2)
        thresholds.append(following)
    return thresholds[::-1]


def nearest_call(thresholds: Sequence[int], timestep: int) -> int:
    """What the program computes from its thresholds."""
    return sum(timestep < threshold for threshold in thresholds)


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


def as_the_pipeline_calls(unet: StepUNet, timesteps: Sequence[float]) -> None:
    """Reorder a reference's tables: row i becomes that of the call which timestep i finds, for calls at one timestep."""
    thresholds = call_thresholds(timesteps)
    calls = [nearest_call(thresholds, told_timestep(timestep)) for timestep in timesteps]
    assert isinstance(unet.tables, StepTables)
    unet.tables.matrix = unet.tables.matrix[calls]
