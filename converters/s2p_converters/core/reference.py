"""The torch reference of a checkpoint: the same integers and scales in plain arithmetic.

A target's program must denote this function. It is evaluated in float64, because in float32 a difference of one unit in the
last place can flip the rounding of an activation and so hide (or feign) an error of one whole grid step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from s2p_converters.core.checkpoint import Checkpoint, QuantizedLayer
from s2p_converters.core.graph import (
    GivenRows,
    LayerSpec,
    NetworkRows,
    Operators,
    StepRow,
    StepTables,
    StepUNet,
    TimeNetwork,
    denoiser_of,
    empty_network,
    prompt_columns,
)
from s2p_converters.core.graph.operators import FloatLayer
from s2p_converters.core.grids import GeneralLayer
from s2p_runtime.errors import S2PError

Rounding = Callable[[Tensor], Tensor]
WeightRounding = Callable[[QuantizedLayer, Tensor], Tensor]


@dataclass(frozen=True)
class Constants:
    """How a target stores the real-valued constants.

    Attributes:
        stored: rounds a float constant to the program's precision (float64 in, float64 out).
        weight: rounds a layer's dequantized weight ``scale * integer``; exact where the target multiplies by the scale itself.
        activations: False when the target leaves activations in float.
    """

    stored: Rounding
    weight: WeightRounding
    activations: bool = True


def exact(value: Tensor) -> Tensor:
    """No rounding."""
    return value


def to_float32(value: Tensor) -> Tensor:
    """Nearest float32, as float64."""
    return value.float().double()


def to_float16(value: Tensor) -> Tensor:
    """Nearest float16, as float64."""
    return value.half().double()


def exact_weight(layer: QuantizedLayer, value: Tensor) -> Tensor:
    """No rounding of weights."""
    return value


CHECKPOINT_CONSTANTS = Constants(stored=to_float32, weight=exact_weight)
"""The checkpoint as it is."""


def reciprocal_scale(scale: NDArray[np.float32]) -> NDArray[np.float64]:
    """``2^-7 / scale`` in double: the factor that takes an activation to [-1, 1), where int8 has the constant scale 2^-7."""
    return np.float64(2.0**-7) / scale.astype(np.float64)


def step_columns(layer: QuantizedLayer, stored: Rounding) -> dict[str, Tensor]:
    """Table columns of a layer with quantized activations, [T, 1]: ``<name>.inverse`` = 2^-7 / s_t, ``<name>.scale`` = 2^7 s_t."""
    if layer.activation_scale is None:
        return {}
    inverse = torch.from_numpy(reciprocal_scale(layer.activation_scale))
    scale = torch.from_numpy(layer.activation_scale.astype(np.float64)) * 2.0**7
    return {f"{layer.spec.name}.inverse": stored(inverse)[:, None], f"{layer.spec.name}.scale": stored(scale)[:, None]}


def dequantized(layer: QuantizedLayer, constants: Constants) -> Tensor:
    """A layer's weight as a target computes with it, float64."""
    scale = torch.from_numpy(layer.scale.astype(np.float64))
    scale = scale.reshape(-1, *([1] * (len(layer.spec.weight_shape) - 1)))
    return constants.weight(layer, torch.from_numpy(layer.integers).double().mul_(scale))


class ReferenceLayer(nn.Module):
    """``y = (W (*) clamp(round(x / s_t))) s_t + b``, with W the dequantized weight; the clamp is to the layer's range."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: QuantizedLayer, constants: Constants) -> None:
        super().__init__()
        self.spec = layer.spec
        self.bits = layer.activation_bits if constants.activations else None
        self.range = (0, 0) if self.bits is None else layer.activation_range
        self._hold(layer, constants)
        bias = None if layer.bias is None else constants.stored(torch.from_numpy(layer.bias).double())
        self.register_buffer("bias", bias)

    def _hold(self, layer: QuantizedLayer, constants: Constants) -> None:
        self.register_buffer("weight", dequantized(layer, constants))

    def forward(self, x: Tensor, row: StepRow) -> Tensor:
        if self.bits is None:
            return self.spec.apply(x, self.weight, self.bias)
        low, high = self.range
        inverse = self.spec.per_step(row[f"{self.spec.name}.inverse"])
        scale = self.spec.per_step(row[f"{self.spec.name}.scale"])
        rounded = torch.clamp(torch.round(x * inverse * 2.0**7), low, high) * 2.0**-7
        y = self.spec.apply(rounded, self.weight) * scale
        return y if self.bias is None else y + self.spec.per_channel(self.bias)


class StreamedReferenceLayer(ReferenceLayer):
    """The same with its weight made at every call and let go again: 8 bytes a weight do not fit for a whole network."""

    unit: Tensor

    def _hold(self, layer: QuantizedLayer, constants: Constants) -> None:
        self._layer, self._constants = layer, constants
        self.register_buffer("unit", torch.ones((), dtype=torch.float64), persistent=False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """In the module's precision, where the module lies."""
        return dequantized(self._layer, self._constants).to(self.unit)


def general_columns(layer: GeneralLayer, stored: Rounding) -> dict[str, Tensor]:
    """Table columns of a layer with general grids, [T, 3] each (scale, zero point, largest integer): ``<name>.input<k>`` of part k
    and ``<name>.output``."""
    grids = {f"{layer.spec.name}.input{index}": part.activation for index, part in enumerate(layer.parts)}
    grids[f"{layer.spec.name}.output"] = layer.output
    return {key: stored(torch.from_numpy(grid.columns)) for key, grid in grids.items() if grid is not None}


def rounded_to_grid(spec: LayerSpec, x: Tensor, grid: Tensor) -> Tensor:
    """``scale (clamp(round(x / scale) + zero, 0, largest) - zero)``; ``grid`` [S, 3] holds scale, zero and largest."""
    scale, zero, largest = (spec.per_step(column) for column in grid.split(1, dim=1))
    integers = torch.minimum((torch.round(x / scale) + zero).clamp(min=0.0), largest)
    return (integers - zero) * scale


class GeneralReferenceLayer(nn.Module):
    """A layer with general grids: each part of the input and of the weights on its own grid."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: GeneralLayer, constants: Constants) -> None:
        super().__init__()
        self.spec = layer.spec
        self.channels = [part.channels for part in layer.parts]
        self.rounds_input = constants.activations and layer.parts[0].activation is not None
        self.rounds_output = constants.activations and layer.output is not None
        self.register_buffer("weight", torch.from_numpy(layer.weights))
        bias = None if layer.bias is None else constants.stored(torch.from_numpy(layer.bias).double())
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor, row: StepRow) -> Tensor:
        name, axis = self.spec.name, -1 if self.spec.kind == "linear" else 1
        if self.rounds_input:
            parts = x.split(self.channels, dim=axis)
            rounded = [rounded_to_grid(self.spec, part, row[f"{name}.input{k}"]) for k, part in enumerate(parts)]
            x = torch.cat(rounded, dim=axis)
        y = self.spec.apply(x, self.weight, self.bias)
        return rounded_to_grid(self.spec, y, row[f"{name}.output"]) if self.rounds_output else y


def attention_with_rounded_weights(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float, bits: int) -> Tensor:
    """Multi-head attention (shapes as :meth:`Operators.attention`) whose softmax is rounded to multiples of ``1 / (2^bits - 1)``."""
    q, k, v = (t.unflatten(2, (heads, t.shape[2] // heads)).transpose(1, 2) for t in (q, k, v))
    weights = torch.softmax(q @ k.transpose(2, 3) * scale, dim=-1)
    largest = float(2**bits - 1)
    return (torch.round(weights * largest) / largest @ v).transpose(1, 2).flatten(2)


class _ReferenceOperators(Operators):
    kind = ReferenceLayer

    def __init__(self, checkpoint: Checkpoint, constants: Constants) -> None:
        self.layers: Mapping[str, QuantizedLayer] = checkpoint.layers
        self.general: Mapping[str, GeneralLayer] = checkpoint.general
        self.softmax_bits = checkpoint.manifest.softmax_bits if constants.activations else None
        self.constants = constants

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        if self.softmax_bits is None:
            return super().attention(q, k, v, heads)
        scale = self.constant((q.shape[2] // heads) ** -0.5)
        return attention_with_rounded_weights(q, k, v, heads, scale, self.softmax_bits)

    def constant(self, value: float) -> float:
        return float(self.constants.stored(torch.tensor(value, dtype=torch.float64)))

    def layer(self, spec: LayerSpec) -> nn.Module:
        if spec.name in self.layers:
            return self.kind(self.layers[spec.name], self.constants)
        if spec.name in self.general:
            return GeneralReferenceLayer(self.general[spec.name], self.constants)
        return FloatLayer(spec)


class _StreamedOperators(_ReferenceOperators):
    kind = StreamedReferenceLayer


def table_columns(checkpoint: Checkpoint, stored: Rounding, activations: bool = True) -> dict[str, Tensor]:
    """All columns of a program's step tables, float64 [T, C]: time of every resnet (unless the prompt brings it), then scales of
    every layer."""
    time = {} if prompt_columns(checkpoint.structure) else time_columns(checkpoint, stored)
    return time | (scale_columns(checkpoint, stored) if activations else {})


def time_columns(checkpoint: Checkpoint, stored: Rounding) -> dict[str, Tensor]:
    """``<resnet>.time`` -> float64 [T, C]: the rows that all prompts share."""
    return {name: stored(torch.from_numpy(table).double()) for name, table in checkpoint.time_tables.items()}


def scale_columns(checkpoint: Checkpoint, stored: Rounding) -> dict[str, Tensor]:
    """Columns of every layer with quantized activations, float64."""
    columns: dict[str, Tensor] = {}
    for layer in checkpoint.layers.values():
        columns |= step_columns(layer, stored)
    for other in checkpoint.general.values():
        columns |= general_columns(other, stored)
    return columns


def load_floats(module: nn.Module, checkpoint: Checkpoint, stored: Rounding, skip: Collection[str] = ()) -> None:
    """Put the checkpoint's float tensors (norms, unquantized layers) into a graph, rounded to the target's precision.

    Args:
        skip: parameters that the graph's layers filled themselves.
    """
    state = {name: stored(torch.from_numpy(value).double()) for name, value in checkpoint.floats.items()}
    parameters = {name: parameter for name, parameter in module.named_parameters() if name not in skip}
    missing = sorted(set(parameters) - set(state))
    if missing:
        raise S2PError(f"checkpoint {checkpoint.folder.name} lacks {missing[0]}", "make it again with s2p-mobile quantize")
    with torch.no_grad():
        for name, parameter in parameters.items():
            # A linear layer's weights may lie as those of a convolution.
            trailing = [1] * (parameter.dim() - state[name].dim())
            parameter.copy_(state[name].reshape(*state[name].shape, *trailing))


def time_network(checkpoint: Checkpoint) -> TimeNetwork:
    """What makes a prompt's time table where the U-Net is told a pooled text, in float64: (pooled text, time ids) -> table."""
    calls = len(checkpoint.manifest.plan.calls)
    network = empty_network(checkpoint.structure, checkpoint.manifest.unet_config, calls)
    rows = np.concatenate([checkpoint.time_tables[name] for name in network.names], axis=1)
    state = {name: torch.from_numpy(value) for name, value in {**checkpoint.time_network, "rows": rows}.items()}
    network.load_state_dict(state)
    return network.double().eval().requires_grad_(False)


def step_tables(columns: Mapping[str, Tensor], checkpoint: Checkpoint) -> StepTables:
    """The tables of a program: :func:`table_columns`, and the rows of the time table that the prompt brings, if it does."""
    of_prompt = prompt_columns(checkpoint.structure)
    return StepTables(columns, GivenRows(list(of_prompt), list(of_prompt.values())) if of_prompt else None)


def checkpoint_unet(checkpoint: Checkpoint) -> StepUNet:
    """:func:`reference_unet` for drawing many prompts: it takes the pooled text in place of a time table."""
    unet = reference_unet(checkpoint)
    conditioning, stored = checkpoint.manifest.conditioning, CHECKPOINT_CONSTANTS.stored
    if conditioning is not None:
        columns = time_columns(checkpoint, stored) | scale_columns(checkpoint, stored)
        ids = torch.tensor([conditioning.time_ids], dtype=torch.float64)
        unet.tables = StepTables(columns, NetworkRows(time_network(checkpoint), ids))
    return unet.eval().requires_grad_(False)


def reference_unet(checkpoint: Checkpoint, constants: Constants = CHECKPOINT_CONSTANTS) -> StepUNet:
    """The checkpoint's U-Net in float64 torch, with the constants as a target stores them.

    Where the time table belongs to the prompt, it is the fourth input.
    """
    return _unet(checkpoint, constants, _ReferenceOperators)


def streamed_reference_unet(checkpoint: Checkpoint, constants: Constants = CHECKPOINT_CONSTANTS) -> StepUNet:
    """:func:`reference_unet`, to the bit, with one weight in memory at a time."""
    return _unet(checkpoint, constants, _StreamedOperators)


def _unet(checkpoint: Checkpoint, constants: Constants, operators: type[_ReferenceOperators]) -> StepUNet:
    tables = step_tables(table_columns(checkpoint, constants.stored, constants.activations), checkpoint)
    denoiser = denoiser_of(checkpoint.manifest.unet_config)
    unet = denoiser.graph(checkpoint.structure, tables, operators(checkpoint, constants)).double()
    load_floats(unet, checkpoint, constants.stored)
    return unet.eval().requires_grad_(False)
