"""Step tables: everything that depends on the call index, in one matrix with one lookup, and what a prompt adds to its rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from s2p_converters.core.graph.time_network import TimeNetwork


class CutRow(Mapping[str, Any]):
    """A looked-up row [S, N] cut into named columns, each cut when it is first needed, of a program that is being written."""

    def __init__(self, row: Any, widths: Mapping[str, int]) -> None:
        """
        Args:
            row: cut as torch's tensors are, by ``narrow(axis, start, length)``.
            widths: of the columns, in order.
        """
        self._row, self._widths = row, dict(widths)
        self._starts = dict(zip(widths, itertools.accumulate(widths.values(), initial=0), strict=False))
        self._cut: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._cut:
            self._cut[name] = self._row.narrow(1, self._starts[name], self._widths[name])
        return self._cut[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._widths)

    def __len__(self) -> int:
        return len(self._widths)


class PromptRows(nn.Module):
    """A prompt's part of the rows: called with (call indices [S], what the prompt brings), gives [B, sum of widths].

    Attributes:
        names: of its columns.
        widths: theirs.
    """

    names: list[str]
    widths: list[int]


class GivenRows(PromptRows):
    """Rows of a time table that each call brings, [B, T, sum of widths]: what a program takes."""

    def __init__(self, names: Sequence[str], widths: Sequence[int]) -> None:
        """
        Args:
            names, widths: columns of the table, as the :class:`TimeNetwork` orders them.
        """
        super().__init__()
        self.names, self.widths = list(names), list(widths)

    def forward(self, step: Tensor, time_table: Tensor) -> Tensor:
        """Call indices [1] or [B], table [B, T, K] -> [B, K]."""
        if step.shape[0] == 1:
            return time_table.index_select(1, step)[:, 0]
        return time_table[torch.arange(time_table.shape[0], device=step.device), step]


class NetworkRows(PromptRows):
    """Rows that a :class:`TimeNetwork` makes of the pooled text at hand: for many prompts, which never need a whole table."""

    time_ids: Tensor

    def __init__(self, network: TimeNetwork, time_ids: Tensor) -> None:
        """
        Args:
            network: its own ``rows`` are left out here; they are columns of the :class:`StepTables`.
            time_ids: of the pictures, float [1, 6].
        """
        super().__init__()
        self.names, self.widths, self.network = network.names, network.widths, network
        self.register_buffer("time_ids", time_ids)

    def forward(self, step: Tensor, pooled: Tensor) -> Tensor:
        """Call indices [1] or [B], pooled text [B, P] -> [B, K]; in the network's own precision, whatever the rest runs in."""
        with torch.autocast(pooled.device.type, enabled=False):
            return self.network.prompt_rows(step, pooled.to(self.network.embeddings.dtype), self.time_ids)


class StepTables(nn.Module):
    """Named columns of one [T, N] matrix; called with the step, it gathers the rows and splits them by name.

    One lookup instead of hundreds: the gather is a real operator with a cost in a deployed program.

    Attributes:
        matrix: [T, N], a buffer, or a parameter after :meth:`learn`.
        of_prompt: what a prompt adds to the columns of the same names, or gives where there are none; None: nothing.
    """

    matrix: Tensor

    def __init__(self, columns: Mapping[str, Tensor], of_prompt: PromptRows | None = None) -> None:
        """
        Args:
            columns: name -> float [T, C]; every T is the same. May be empty where there is a prompt's part.
        """
        super().__init__()
        self.names = list(columns)
        self.widths = [columns[name].shape[1] for name in self.names]
        self.of_prompt = of_prompt
        self.register_buffer("matrix", torch.cat(list(columns.values()), dim=1) if columns else torch.zeros(0, 0))

    @property
    def columns(self) -> dict[str, Tensor]:
        """name -> [T, C]"""
        return dict(zip(self.names, self.matrix.split(self.widths, dim=1), strict=True)) if self.names else {}

    def learn(self) -> nn.Parameter:
        """Make the matrix a parameter."""
        values = self.matrix
        del self.matrix
        self.matrix = nn.Parameter(values)
        return self.matrix

    def forward(self, step: Tensor, *condition: Tensor) -> dict[str, Tensor]:
        """
        Args:
            step: call indices, integer [S]; S is 1 or B where there is a prompt's part.
            condition: what the prompt's part takes, if there is one.

        Returns:
            name -> [B, C] of the prompt's columns, [S, C] of the others.
        """
        if self.of_prompt is None:
            return self._row(step)
        brought = self.of_prompt(step, *condition)
        parts = dict(zip(self.of_prompt.names, torch.split(brought, self.of_prompt.widths, dim=1), strict=True))
        row = self._row(step) if self.names else {}
        return row | {name: part + row[name] if name in row else part for name, part in parts.items()}

    def _row(self, step: Tensor) -> dict[str, Tensor]:
        rows = self.matrix.index_select(0, step)
        return dict(zip(self.names, torch.split(rows, self.widths, dim=1), strict=True))
