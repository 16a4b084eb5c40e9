"""The function that a Core AI program denotes, in float64."""

from __future__ import annotations

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.graph import StepUNet
from s2p_converters.core.reference import Constants, step_tables, streamed_reference_unet, table_columns


def dividing_reference(checkpoint: Checkpoint, constants: Constants) -> StepUNet:
    """:func:`streamed_reference_unet` whose activations are divided by the stored scale: ``clamp(round(x / s))``."""
    unet = streamed_reference_unet(checkpoint, constants)
    columns = table_columns(checkpoint, constants.stored, constants.activations)
    for name, layer in checkpoint.layers.items():
        if constants.activations and layer.activation_scale is not None:
            # The columns are 2^-7 / s and 2^7 s.
            columns[f"{name}.inverse"] = 1.0 / columns[f"{name}.scale"]
    unet.tables = step_tables(columns, checkpoint).double()
    return unet.eval().requires_grad_(False)
