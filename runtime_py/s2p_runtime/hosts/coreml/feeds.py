"""What a Core ML U-Net is fed: the same values under the names and in the shapes that its layout asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.hosts.timesteps import told_timestep
from s2p_runtime.plan import SamplingPlan

Array32 = NDArray[np.float32]


def timestep_feeds(
    plan: SamplingPlan, sample: Array32, step: int, conditions: Mapping[str, Array32]
) -> dict[str, NDArray[Any]]:
    """Inputs of a U-Net in Apple's layout: sample [B, C, H, W], ``timestep`` [B] in place of ``step``, and the embeddings
    [B, N, D] as [B, D, 1, N]."""
    timestep = np.full(sample.shape[0], told_timestep(plan.calls[step].timestep), np.float32)
    hidden = np.ascontiguousarray(conditions["encoder_hidden_states"].transpose(0, 2, 1)[:, :, None, :])
    return {"sample": sample, "timestep": timestep, **conditions, "encoder_hidden_states": hidden}
