"""Step tables: everything that depends on the call index, in one matrix with one lookup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from s2p_converters.core.graph.time_network import TimeNetwork


class StepTables(nn.Module):
    """Named columns of one [T, N] matrix; ``forward(step)`` gathers the rows and splits them by name.

    One lookup instead of hundreds: the gather is a real operator with a cost in a deployed program.
    """

    matrix: Tensor

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        """
        Args:
            columns: name -> float [T, C]; every T is the same.
        """
        super().__init__()
        self.names = list(columns)
        self.widths = [columns[name].shape[1] for name in self.names]
        self.register_buffer("matrix", torch.cat([columns[name] for name in self.names], dim=1))

    def forward(self, step: Tensor) -> dict[str, Tensor]:
        """
        Args:
            step: call indices, integer [S].

        Returns:
            name -> [S, C].
        """
        rows = self.matrix.index_select(0, step)
        return dict(zip(self.names, torch.split(rows, self.widths, dim=1), strict=True))


class PromptTables(nn.Module):
    """Rows from a time table that belongs to the prompt (SDXL), and named columns that do not."""

    def __init__(self, names: Sequence[str], widths: Sequence[int], columns: Mapping[str, Tensor]) -> None:
        """
        Args:
            names, widths: columns of the time table that each call brings, as the :class:`TimeNetwork` orders them.
            columns: name -> float [T, C] of what is the same for every prompt; may be empty.
        """
        super().__init__()
        self.names, self.widths = list(names), list(widths)
        self.common = StepTables(columns) if columns else None

    def forward(self, step: Tensor, time_table: Tensor) -> dict[str, Tensor]:
        """
        Args:
            step: call indices, integer [1] or [B].
            time_table: [B, T, sum of widths].

        Returns:
            name -> [B, C] of the time columns, [S, C] of the others.
        """
        if step.shape[0] == 1:
            rows = time_table.index_select(1, step)[:, 0]
        else:
            rows = time_table[torch.arange(time_table.shape[0], device=step.device), step]
        row = dict(zip(self.names, torch.split(rows, self.widths, dim=1), strict=True))
        return row if self.common is None else row | self.common(step)


class PooledTables(nn.Module):
    """Rows of a :class:`TimeNetwork` made from the pooled text at hand: what runs many prompts, and never needs a whole table."""

    time_ids: Tensor

    def __init__(self, network: TimeNetwork, time_ids: Tensor, common: StepTables | None = None) -> None:
        """
        Args:
            time_ids: of the pictures, float [1, 6].
            common: columns that are the same for every prompt.
        """
        super().__init__()
        self.network, self.common = network, common
        self.register_buffer("time_ids", time_ids)

    def prompt_part(self, step: Tensor, pooled: Tensor) -> Tensor:
        """See :meth:`TimeNetwork.prompt_rows`; in the network's own precision, whatever the rest runs in."""
        with torch.autocast(pooled.device.type, enabled=False):
            return self.network.prompt_rows(step, pooled.to(self.network.embeddings.dtype), self.time_ids)

    def forward(self, step: Tensor, pooled: Tensor) -> dict[str, Tensor]:
        """
        Args:
            step: call indices, integer [1] or [B].
            pooled: pooled text, float [B, P].

        Returns:
            name -> [B, C] of the time columns, [S, C] of the others.
        """
        rows = self.prompt_part(step, pooled) + self.network.rows.index_select(0, step)
        row = dict(zip(self.network.names, torch.split(rows, self.network.widths, dim=1), strict=True))
        return row if self.common is None else row | self.common(step)
