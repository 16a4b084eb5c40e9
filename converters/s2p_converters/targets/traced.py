"""What targets share that write a program by running :class:`StepUNet` on symbols."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import nn

from s2p_converters.core.graph import StepUNet
from s2p_converters.core.graph.splitting import Chunk

Columns = dict[str, NDArray[np.float32]]


class TracedTables(nn.Module, ABC):
    """One gather from the step table, its row cut into columns, and the row of the prompt's time table where calls bring one.

    Attributes:
        widths: of the step table's columns by name.
        matrix: the step table, float32 [T, N]; None: there are no columns.
        of_prompt: widths of the prompt's columns by name; None: calls bring no table.
    """

    def __init__(self, columns: Columns, of_prompt: Mapping[str, int]) -> None:
        """
        Args:
            columns: name -> [T, C]; may be empty where there is a prompt's part.
            of_prompt: widths of the prompt's columns.
        """
        super().__init__()
        self.widths = {name: column.shape[1] for name, column in columns.items()}
        self.matrix = np.concatenate(list(columns.values()), axis=1).astype(np.float32, copy=False) if columns else None
        self.of_prompt = dict(of_prompt) or None

    @classmethod
    def of_chunk(cls, columns: Columns, of_prompt: Mapping[str, int], chunk: Chunk) -> Self | None:
        """Tables of a chunk's own columns, None where it has none; a time table that calls bring is taken whole or not at all."""
        held = {name: column for name, column in columns.items() if chunk.holds(name)}
        brought = of_prompt if any(chunk.holds(name) for name in of_prompt) else {}
        return cls(held, brought) if held or brought else None

    @abstractmethod
    def forward(self, step: Any, time_table: Any = None) -> Mapping[str, Any]:
        """Call index int32 [1], table float32 [B, T, K] -> columns [1, C] and [B, C]."""


def name_norms(unet: StepUNet) -> None:
    """Tell every norm what it is called: operators see the module alone, and its constants stand under this name."""
    for name, module in unet.named_modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.s2p_name = name
