"""SDXL's time path: the rows of the time table depend on the prompt, so a small network makes the table once per prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _AddEmbedding(nn.Module):
    """Two linear layers with a SiLU between; parameter names are those of diffusers' TimestepEmbedding."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, outputs)
        self.linear_2 = nn.Linear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return hidden


class TimeNetwork(nn.Module):
    """``W silu(temb(t_i) + add_embedding([pooled text, sinusoids of the time ids])) + b`` for all calls i and all resnets.

    The time MLP is gone: its output at the plan's timesteps is a constant. Source of the formula: ``get_aug_embed`` of
    diffusers' UNet2DConditionModel, and Podell et al. 2023 (arXiv 2307.01952), section 2.2.
    """

    embeddings: Tensor
    frequencies: Tensor

    def __init__(
        self,
        names: Sequence[str],
        widths: Sequence[int],
        calls: int,
        embedding_dim: int,
        input_dim: int,
        id_dim: int,
        flip_sin_to_cos: bool = True,
        freq_shift: float = 0,
    ) -> None:
        """
        Args:
            names: ``<resnet>.time`` of every resnet, in the order of the table's columns.
            widths: its channels.
            calls: of the plan, T.
            embedding_dim: width E of the time embedding.
            input_dim: pooled width + 6 * id_dim.
            id_dim: width of the sinusoid of one time id.
            flip_sin_to_cos, freq_shift: the U-Net configuration's.
        """
        super().__init__()
        self.names, self.widths = list(names), list(widths)
        self.flip = flip_sin_to_cos
        half = id_dim // 2
        exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32) / (half - freq_shift)
        self.register_buffer("frequencies", torch.exp(exponent))
        self.register_buffer("embeddings", torch.zeros(calls, embedding_dim))
        self.add_embedding = _AddEmbedding(input_dim, embedding_dim)
        self.projection = nn.Linear(embedding_dim, sum(widths))

    def forward(self, pooled: Tensor, time_ids: Tensor) -> Tensor:
        """
        Args:
            pooled: pooled text embedding, float [B, P].
            time_ids: float [B, 6].

        Returns:
            Time table, [B, T, sum of widths].
        """
        angles = time_ids[:, :, None] * self.frequencies
        pair = (torch.cos(angles), torch.sin(angles)) if self.flip else (torch.sin(angles), torch.cos(angles))
        sinusoids = torch.cat(pair, dim=2).reshape(time_ids.shape[0], -1)
        added = self.add_embedding(torch.cat([pooled, sinusoids.to(pooled.dtype)], dim=1))
        table: Tensor = self.projection(F.silu(self.embeddings + added[:, None, :]))
        return table
