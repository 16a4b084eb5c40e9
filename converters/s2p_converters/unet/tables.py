"""Step tables: everything that depends on the call index, in one matrix with one lookup."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


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
