"""Step rows of a student: activation scales and time rows, learned together with the layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s2p_converters.core.graph import StepTables
from s2p_mobile.quantize.grid import snap_activation_scale, stored_reciprocal
from s2p_mobile.quantize.student.snapping import Snap


class TrainedTables(nn.Module):
    """Step rows of a student: time rows that begin as the FP model's, and activation scales.

    Attributes:
        time: the time rows; its matrix [T, all C] can be learned, what a prompt adds to them stays as it is.
        learns_time: whether the time rows are learned.
        log_scales: logarithm of scale over initial scale, [T, L], [1, L] with one for all calls; None with float activations.
        base: initial scales, float32 [T, L].
    """

    base: Tensor | None

    def __init__(self, time: StepTables, names: list[str], scales: Tensor | None, per_step: bool) -> None:
        """
        Args:
            time: ``<resnet>.time``, float32; becomes a part of these tables.
            names: the L quantized layers.
            scales: initial activation table [T, L], or None.
            per_step: learn a scale for every call.
        """
        super().__init__()
        self.names, self.time = names, time
        time.learn()
        self.learns_time = True
        self.register_buffer("base", scales)
        rows = 0 if scales is None else scales.shape[0] if per_step else 1
        self.log_scales = None if scales is None else nn.Parameter(torch.zeros(rows, scales.shape[1]))

    @property
    def scales(self) -> Tensor | None:
        """Present activation table, snapped, [T, L]."""
        if self.base is None or self.log_scales is None:
            return None
        return Snap.apply(self.base * self.log_scales.exp(), snap_activation_scale)

    @property
    def time_rows(self) -> nn.Parameter:
        """All time rows side by side, [T, all C]."""
        assert isinstance(self.time.matrix, nn.Parameter)
        return self.time.matrix

    @property
    def time_tables(self) -> dict[str, Tensor]:
        """``<resnet>.time`` -> float32 [T, C]: what all prompts share."""
        return {name: part.detach().clone().contiguous() for name, part in self.time.columns.items()}

    def forward(self, step: Tensor, *condition: Tensor) -> dict[str, Tensor]:
        """As :meth:`StepTables.forward`, with the scales' columns."""
        row: dict[str, Tensor] = self.time(step, *condition)
        scales = self.scales
        if scales is not None:
            chosen = scales.index_select(0, step)
            inverse = stored_reciprocal(chosen)
            for name, scale, reciprocal in zip(self.names, chosen.split(1, dim=1), inverse.split(1, dim=1), strict=True):
                row[f"{name}.scale"], row[f"{name}.inverse"] = scale, reciprocal
        return row
