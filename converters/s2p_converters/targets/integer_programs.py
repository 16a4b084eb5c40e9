"""What targets share whose programs hold the checkpoint's integers in one of two forms: layers as the form has them, and what the
manifest says of them and of where a program can run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from s2p_converters.core.checkpoint import Checkpoint, QuantizedLayer
from s2p_runtime.bundle import LayerSummary

ComputeUnit = Literal["neural-engine", "gpu", "all"]


Form = Literal["channels-first", "tokens"]
"""How the states of a U-Net's transformers lie: [B, C, 1, N], every layer a convolution, or [B, N, C]."""


def program_layers(checkpoint: Checkpoint, form: Form) -> dict[str, QuantizedLayer]:
    """The quantized layers as a program of this form has them."""
    if form == "tokens":
        return dict(checkpoint.layers)
    return {name: layer.as_convolution() for name, layer in checkpoint.layers.items()}


class StoredWeight(Protocol):
    """How a target stores the weights of one layer."""

    @property
    def scheme(self) -> str:
        """For people: the form and its granularity."""
        ...

    @property
    def stored_bytes(self) -> int:
        """Bytes of integers, tables and scales."""
        ...


def layer_summaries(
    checkpoint: Checkpoint, stored: Mapping[str, StoredWeight], half: bool, rounds: bool
) -> tuple[LayerSummary, ...]:
    """How each layer of the U-Net rests, in the order in which they run.

    Args:
        stored: quantized layers by name.
        half: whether the program computes in float16.
        rounds: whether it rounds activations.
    """
    width = 16 if half else 32
    rows = []
    for spec in checkpoint.specs:
        layer = checkpoint.layers.get(spec.name)
        rows.append(
            LayerSummary(
                name=spec.name,
                kind=spec.kind,
                weight_bits=layer.weight_bits if layer else width,
                activation_bits=layer.activation_bits if layer and rounds else None,
                scheme=stored[spec.name].scheme if layer else f"float{width}",
                weights=spec.weights,
                bytes=stored[spec.name].stored_bytes if layer else spec.weights * width // 8,
            )
        )
    return tuple(rows)


def usable_unit(asked: ComputeUnit, half: bool) -> ComputeUnit:
    """The unit that a program can use: one in float32, which the Neural Engine does not compute in, may run anywhere."""
    return asked if half or asked != "neural-engine" else "all"
