"""What a fine-tune takes over from a finished checkpoint of the same architecture: bit-widths, zero points, and which way weights are
rounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from s2p_converters.core.checkpoint import Checkpoint, QuantizedLayer
from s2p_converters.core.graph import LayerSpec, split_shortcuts
from s2p_converters.core.packing import integer_range
from s2p_mobile.quantize.grid import weight_scale
from s2p_mobile.quantize.job import QuantizationJob
from s2p_runtime.errors import S2PError


@dataclass(frozen=True, eq=False)
class Likeness:
    """
    Attributes:
        name: of the checkpoint, for messages.
        identity: SHA-256 of its U-Net's file.
        checkpoint: opened.
    """

    name: str
    identity: str
    checkpoint: Checkpoint

    @property
    def weight_bits(self) -> dict[str, int]:
        """Of the quantized layers."""
        return {name: layer.weight_bits for name, layer in self._layers()}

    @property
    def activation_zeros(self) -> dict[str, int]:
        """Zero point of each layer's input."""
        return {name: layer.activation_zero for name, layer in self._layers()}

    @property
    def float_inputs(self) -> frozenset[str]:
        """Layers whose inputs are not rounded."""
        return frozenset(name for name, layer in self._layers() if layer.activation_bits is None)

    def _layers(self) -> Iterator[tuple[str, QuantizedLayer]]:
        for name, layer in self.checkpoint.layers.items():
            assert isinstance(layer, QuantizedLayer)
            yield name, layer

    def layer(self, name: str) -> QuantizedLayer:
        """A quantized layer."""
        layer = self.checkpoint.layers[name]
        assert isinstance(layer, QuantizedLayer)
        return layer


def likeness_of(job: QuantizationJob, checkpoint: Checkpoint | str | Path) -> Likeness:
    """What a job can take over.

    Raises:
        S2PError: no checkpoint, another architecture, other layers in float, or grids that training does not make.
    """
    from s2p_mobile.sources.open_source import as_checkpoint

    found = as_checkpoint(checkpoint)
    name = found.folder.name
    wanted = {spec.name: spec.weight_shape for spec in job.layers}
    there = {
        layer_name: tuple(layer.integers.shape)
        for layer_name, layer in found.layers.items()
        if isinstance(layer, QuantizedLayer)
    }
    if len(there) != len(found.layers):
        raise S2PError(f"{name} has grids of another kind", "give a checkpoint of s2p, adaround, gptq or rtn", "like")
    if there != wanted:
        odd = sorted(set(there.items()) ^ set(wanted.items()))[0][0]
        raise S2PError(
            f"{name} does not fit this model and recipe: layer {odd} differs",
            "give a checkpoint of the same architecture whose recipe leaves the same layers in float",
            "like",
        )
    return Likeness(name, found.manifest.files["unet.safetensors"].sha256, found)


class RoundedLike(Mapping[str, Tensor]):
    """layer -> weights of this model, float32 [C_out, ...], which round up or down on its own grids: towards where the other model's
    weight was rounded. Each lies as near to its float value as ``start.remainder`` steps from its integer allow. Made when asked
    for."""

    def __init__(self, job: QuantizationJob, likeness: Likeness, layers: Sequence[LayerSpec]) -> None:
        self._job, self._likeness = job, likeness
        self._source = split_shortcuts(job.model.unet.state_dict(), job.structure)
        self._names = [spec.name for spec in layers]

    def __getitem__(self, name: str) -> Tensor:
        other = self._likeness.layer(name)
        weight = self._source[f"{name}.weight"].float()
        column = (-1, *([1] * (weight.dim() - 1)))
        scale = weight_scale(weight, other.weight_bits, self._job.recipe.weights.search).reshape(column)
        theirs = torch.from_numpy(other.integers.astype("float32")) * torch.from_numpy(other.scale.astype("float32")).reshape(
            column
        )
        ratio = weight / scale
        low = ratio.floor()
        integers = (low + (theirs / scale - low >= 0.5)).clamp_(*integer_range(other.weight_bits))
        remainder = self._job.recipe.training.start.remainder
        near = torch.minimum(torch.maximum(ratio, integers - remainder), integers + remainder)
        return near.clamp_(*integer_range(other.weight_bits)) * scale

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
