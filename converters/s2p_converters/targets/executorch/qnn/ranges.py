"""Static ranges of the layers' inputs and outputs, from the checkpoint's own statistics.

The golden runs of a checkpoint hold the state of every call; the reference in float32 is run there, and each layer notes the
smallest and largest number that it takes and gives. Of large networks only some calls are run. Where the checkpoint has
activation scales, the range of its own grids over all calls is joined to that of the inputs, and outputs are widened by as
much as the largest scale of all calls is above the largest of those that were run: a layer's output grows with its input.
Sixteen bits leave room: a third of a range is added at either end, which costs 4 dB of some 90.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from s2p_converters.core.checkpoint import Checkpoint, QuantizedLayer
from s2p_converters.core.graph import StepRow
from s2p_converters.core.graph.operators import FloatLayer
from s2p_converters.core.reference import ReferenceLayer, streamed_reference_unet, time_network
from s2p_converters.targets.executorch.qnn.layers import LayerGrids
from s2p_converters.targets.executorch.qnn.onnx_graph import Grid
from s2p_converters.targets.ports import branches, own_latents
from s2p_runtime.conditioning import conditioner_of
from s2p_runtime.tensors import read_tensors
from s2p_runtime.verify import recorded_states

_ROOM = 1 / 3
_MOST_WORK = 1e12
"""Weights times positions over all calls that are run: a minute on two cores. Of larger networks fewer calls are, never fewer than
:data:`_FEWEST`."""
_FEWEST = 4


@dataclass
class Range:
    """Smallest and largest number met."""

    low: float = 0.0
    high: float = 0.0

    def join(self, low: float, high: float) -> None:
        """Take others into account."""
        self.low, self.high = min(self.low, low), max(self.high, high)

    def widen(self, factor: float) -> None:
        """Multiply both ends by a factor of at least 1."""
        self.join(self.low * factor, self.high * factor)

    def grid(self, bits: int, room: float = _ROOM) -> Grid:
        """The grid over the range and some room at either end."""
        more = room * (self.high - self.low)
        return Grid.of_range(self.low - more * (self.low < 0), self.high + more * (self.high > 0), bits)


@dataclass(frozen=True)
class LayerRanges:
    """What a layer took and gave over all calls.

    Attributes:
        input, output: in the units of the network.
        sum: of the output without its bias over the call's activation scale; of layers that have such a scale.
    """

    input: Range
    output: Range
    sum: Range


@dataclass(frozen=True)
class Call:
    """One U-Net call: state [B, C, H, W], index, and what the prompt brings, in the U-Net's order."""

    sample: NDArray[np.float32]
    step: int
    conditions: tuple[NDArray[np.float32], ...]


def layer_ranges(checkpoint: Checkpoint) -> dict[str, LayerRanges]:
    """Ranges of every layer over the calls of the golden runs."""
    return ranges_over(checkpoint, golden_calls(checkpoint))


def golden_calls(checkpoint: Checkpoint) -> Iterator[Call]:
    """:func:`watched_calls` of every golden run, at the recorded states."""
    manifest, conditioner = checkpoint.manifest, conditioner_of(checkpoint.manifest)
    chosen = watched_calls(checkpoint)
    for run in manifest.golden:
        tensors = read_tensors(checkpoint.folder / run.path)
        states = recorded_states(manifest.plan, manifest.guidance, run.seed, tensors, chosen)
        conditions = conditioner.conditions(_with_time_table(checkpoint, tensors))
        for step in chosen:
            yield Call(np.repeat(states[step], conditions.branches, axis=0), step, tuple(conditions.inputs.values()))


@torch.no_grad()
def ranges_over(checkpoint: Checkpoint, calls: Iterable[Call]) -> dict[str, LayerRanges]:
    """Ranges of every layer over some calls, and over the checkpoint's own activation grids."""
    unet = streamed_reference_unet(checkpoint).float()
    found = {spec.name: LayerRanges(Range(), Range(), Range()) for spec in checkpoint.specs}

    def watch(module: nn.Module, inputs: tuple[Tensor, StepRow], output: Tensor) -> None:
        assert isinstance(module, ReferenceLayer | FloatLayer)
        spec, (x, row) = module.spec, inputs
        ranges = found[spec.name]
        ranges.input.join(float(x.min()), float(x.max()))
        ranges.output.join(float(output.min()), float(output.max()))
        if f"{spec.name}.scale" in row:
            plain = output if module.bias is None else output - spec.per_channel(module.bias)
            scale = float(row[f"{spec.name}.scale"]) / 2**7  # the reference's column holds 2^7 s_t
            ranges.sum.join(float(plain.min()) / scale, float(plain.max()) / scale)

    for module in unet.modules():
        if isinstance(module, ReferenceLayer | FloatLayer):
            module.register_forward_hook(watch)
    run = set()
    for call in calls:
        run.add(call.step)
        unet(torch.from_numpy(call.sample).float(), torch.tensor([call.step]), *map(torch.from_numpy, call.conditions))
    for name, layer in checkpoint.layers.items():
        if layer.activation_scale is not None:
            largest = float(layer.activation_scale.max())
            found[name].input.join(*(end * largest for end in layer.activation_range))
            found[name].output.widen(largest / float(layer.activation_scale[sorted(run)].max()))
    return found


def _with_time_table(checkpoint: Checkpoint, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors of a golden run as they are recorded, and the prompt's time table where the checkpoint makes one of it."""
    found = dict(tensors)
    if checkpoint.manifest.conditioning is not None and "time_table" not in found:
        ids = torch.tensor([checkpoint.manifest.conditioning.time_ids], dtype=torch.float64)
        pooled = torch.from_numpy(found["pooled_text"]).double()
        found["time_table"] = time_network(checkpoint)(pooled, ids.expand(pooled.shape[0], -1)).float().numpy()
    return found


def watched_calls(checkpoint: Checkpoint) -> list[int]:
    """The calls that are run: all, or some that are spread over the plan, its ends among them."""
    total = len(checkpoint.manifest.plan.calls)
    height, width = own_latents(checkpoint)
    work = (
        branches(checkpoint) * height * width * sum(spec.weights for spec in checkpoint.specs) * len(checkpoint.manifest.golden)
    )
    count = min(total, max(_FEWEST, int(_MOST_WORK / work)))
    return sorted({int(call) for call in np.linspace(0, total - 1, count).round()})


def wide_grids(ranges: Mapping[str, LayerRanges], layers: Mapping[str, QuantizedLayer]) -> dict[str, LayerGrids]:
    """16-bit grids of the quantized layers."""
    return {name: LayerGrids(ranges[name].input.grid(16), ranges[name].output.grid(16)) for name in layers}


def narrow_grids(ranges: Mapping[str, LayerRanges], layers: Mapping[str, QuantizedLayer]) -> dict[str, LayerGrids]:
    """8-bit grids of those layers whose activations the checkpoint rounds: the checkpoint's own for the input divided by the call's
    scale (times 2^-7), and one over the sums that were met for the output."""
    return {
        name: LayerGrids(Grid(8, 2.0**-7, layer.activation_zero + 128), _scaled(ranges[name].sum).grid(8, 0.0))
        for name, layer in layers.items()
        if layer.activation_scale is not None and layer.activation_bits == 8
    }


def _scaled(of_sum: Range) -> Range:
    """The program's input is ``2^-7 x / s``, so its sums are 2^-7 of those."""
    return Range(of_sum.low * 2.0**-7, of_sum.high * 2.0**-7)
