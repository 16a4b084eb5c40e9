"""The transformers of the U-Net in the shape that the Neural Engine computes in, for every arithmetic.

Tokens lie as [B, C, 1, N] from the first transformer block to the last: linear layers are convolutions with a kernel of one position,
norms and gates work on channels, attention goes head by head with its softmax over the channel axis. What the engine asks for:
Apple's "Deploying Transformers on the Apple Neural Engine" and the rules for authors in apple/coreai-models.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import nn

from s2p_converters.core.graph.operators import GraphOperators, LayerSpec

QUERIES_AT_ONCE = 512
"""Of a head whose scores are many. Apple's own split attention takes as many (ml-stable-diffusion's SPLIT_EINSUM_V2)."""
SCORES_AT_ONCE = QUERIES_AT_ONCE * 4096
"""Scores of one head that are made at once: those of 512 queries at the 4,096 positions of a 64x64 latent, 4 MiB of float16."""


def query_rows(queries: int, keys: int) -> int:
    """Queries whose scores are made at once: all, or as many chunks of equal length as keep to :data:`SCORES_AT_ONCE`."""
    if queries * keys <= SCORES_AT_ONCE:
        return queries
    return math.ceil(queries / math.ceil(queries / max(1, SCORES_AT_ONCE // keys)))


class ChannelsFirst(GraphOperators[Any]):
    """Mix-in in front of the operators of an arithmetic, which says how one head attends.

    Attributes:
        chunks_queries: whether scores are made in chunks of :func:`query_rows`.
    """

    chunks_queries: bool = True

    def tokens(self, x: Any) -> Any:
        """[B, C, H, W] -> [B, C, 1, H * W]."""
        batch, channels, height, width = x.shape
        return x.reshape(batch, channels, 1, height * width)

    def picture(self, x: Any, height: int, width: int) -> Any:
        """[B, C, 1, H * W] -> [B, C, H, W]."""
        return x.reshape(*x.shape[:2], height, width)

    def text(self, context: Any) -> Any:
        """[B, N, D] -> [B, D, 1, N]."""
        return context.transpose(1, 2).unsqueeze(2)

    def halves(self, x: Any) -> tuple[Any, Any]:
        """Slices of channels."""
        first, second = x.chunk(2, dim=1)
        return first, second

    def layer(self, spec: LayerSpec) -> nn.Module:
        """See :class:`GraphOperators`; all layers are convolutions."""
        made: nn.Module = super().layer(spec.as_convolution())  # type: ignore[safe-super]  # the operators behind this mix-in
        return made

    def attention(self, q: Any, k: Any, v: Any, heads: int) -> Any:
        """q [B, C, 1, N], k and v [B, C, 1, M] -> [B, C, 1, N], head by head."""
        width = q.shape[1] // heads
        q, keys = self.scaled(q, k.transpose(1, 3), self.constant(width**-0.5))
        parts = zip(q.split(width, dim=1), keys.split(width, dim=3), v.split(width, dim=1), strict=True)
        return torch.cat([self._head(*part) for part in parts], dim=1)

    def scaled(self, q: Any, keys: Any, factor: float) -> tuple[Any, Any]:
        """Queries [B, C, 1, N] and keys [B, M, 1, C], one of them times the scale of the scores."""
        return q * factor, keys

    def _head(self, query: Any, keys: Any, values: Any) -> Any:
        """query [B, c, 1, N], keys [B, M, 1, c], values [B, c, 1, M] -> [B, c, 1, N]."""
        rows = query_rows(query.shape[3], keys.shape[1]) if self.chunks_queries else query.shape[3]
        found = [self.attend(some, keys, values) for some in query.split(rows, dim=3)]
        return found[0] if len(found) == 1 else torch.cat(found, dim=3)

    @abstractmethod
    def attend(self, query: Any, keys: Any, values: Any) -> Any:
        """One head: query [B, c, 1, N], keys [B, M, 1, c], values [B, c, 1, M] -> [B, c, 1, N]; scores have the keys as channels."""
