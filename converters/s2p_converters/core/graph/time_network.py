"""Time path of a U-Net that is told a pooled text: the rows of the time table depend on the prompt, so a small network makes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2p_converters.core.graph.structure import TIME_IDS, UNetStructure, resnet_names


class _AddEmbedding(nn.Module):
    """Two linear layers with a SiLU between; parameter names are those of diffusers' TimestepEmbedding."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, outputs)
        self.linear_2 = nn.Linear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return hidden


def empty_network(structure: UNetStructure, config: Mapping[str, Any], calls: int) -> TimeNetwork:
    """A network of a U-Net's shape without its weights.

    Args:
        config: the U-Net's diffusers configuration.
        calls: of the plan, T.
    """
    assert structure.text_time is not None
    columns = resnet_names(structure)
    return TimeNetwork(
        names=[f"{name}.time" for name in columns],
        widths=list(columns.values()),
        calls=calls,
        embedding_dim=config.get("time_embedding_dim") or 4 * structure.channels[0],
        input_dim=structure.text_time.pooled_dim + TIME_IDS * structure.text_time.id_dim,
        id_dim=structure.text_time.id_dim,
        flip_sin_to_cos=config.get("flip_sin_to_cos", True),
        freq_shift=config.get("freq_shift", 0),
    )


def time_network_shapes(structure: UNetStructure, config: Mapping[str, Any], calls: int) -> dict[str, tuple[int, ...]]:
    """Tensors of such a network but ``rows``: name -> shape."""
    with torch.device("meta"):
        state = empty_network(structure, config, calls).state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if name != "rows"}


class TimeNetwork(nn.Module):
    """``W silu(temb(t_i) + add_embedding([pooled text, sinusoids of the time ids])) + b_i`` for all calls i and all resnets.

    The time MLP is gone: its output at the plan's timesteps is a constant. ``b_i`` is what does not depend on the prompt: the
    projections' biases, or rows that were learned from them. Source of the formula: ``get_aug_embed`` of diffusers'
    UNet2DConditionModel, and Podell et al. 2023 (arXiv 2307.01952), section 2.2.
    """

    embeddings: Tensor
    frequencies: Tensor
    rows: Tensor

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
        self.projection = nn.Linear(embedding_dim, sum(widths), bias=False)
        self.register_buffer("rows", torch.zeros(calls, sum(widths)))

    def _added(self, pooled: Tensor, time_ids: Tensor) -> Tensor:
        """What the prompt adds to the time embedding, [B, E]."""
        angles = time_ids[:, :, None] * self.frequencies
        pair = (torch.cos(angles), torch.sin(angles)) if self.flip else (torch.sin(angles), torch.cos(angles))
        sinusoids = torch.cat(pair, dim=2).reshape(time_ids.shape[0], -1)
        added: Tensor = self.add_embedding(torch.cat([pooled, sinusoids.to(pooled.dtype)], dim=1))
        return added

    def forward(self, pooled: Tensor, time_ids: Tensor) -> Tensor:
        """
        Args:
            pooled: pooled text embedding, float [B, P].
            time_ids: float [B, 6].

        Returns:
            Time table, [B, T, sum of widths].
        """
        hidden = F.silu(self.embeddings + self._added(pooled, time_ids)[:, None, :])
        table: Tensor = self.projection(hidden) + self.rows
        return table

    def prompt_rows(self, step: Tensor, pooled: Tensor, time_ids: Tensor) -> Tensor:
        """What the prompt adds to the rows of some calls, that is without ``rows``: [B, sum of widths].

        Args:
            step: call indices, integer [1] or [B].
            pooled: float [B, P].
            time_ids: float [1, 6] or [B, 6].
        """
        ids = time_ids.expand(pooled.shape[0], -1)
        hidden = F.silu(self.embeddings.index_select(0, step) + self._added(pooled, ids))
        rows: Tensor = self.projection(hidden)
        return rows
