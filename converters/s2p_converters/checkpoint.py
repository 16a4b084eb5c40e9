"""The S2P checkpoint: integers, scales and tables, readable with safetensors and JSON alone.

The folder holds ``s2p.json`` (:class:`CheckpointManifest`), ``unet.safetensors``, ``activations.safetensors``,
``time_table.safetensors``, ``golden/*.safetensors`` and the untouched ``text_encoder``, ``vae``, ``tokenizer`` and
``scheduler`` folders of the source model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from s2p_converters.packing import integer_range, pack_nibbles, packs, unpack_nibbles
from s2p_converters.unet.operators import LayerSpec
from s2p_converters.unet.structure import UNetStructure, layer_specs, resnet_names
from s2p_runtime.bundle import FileEntry, GoldenRun, LatentSpec, TokenizerSpec, check_files
from s2p_runtime.contract import Contract, read_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.tensors import read_tensors, write_tensors

CHECKPOINT_FORMAT = "s2p-checkpoint"
CHECKPOINT_VERSION = 1
MANIFEST_NAME = "s2p.json"
UNET_FILE = "unet.safetensors"
ACTIVATIONS_FILE = "activations.safetensors"
TIME_TABLE_FILE = "time_table.safetensors"

Array = NDArray[Any]


class LayerEntry(Contract):
    """One layer of the U-Net. ``weight_bits`` null: left in float by the recipe."""

    name: str
    kind: Literal["conv", "linear"]
    weight_bits: int | None = Field(default=None, ge=2, le=8)
    activation_bits: int | None = Field(default=None, ge=2, le=8, description="null: float activations")

    @model_validator(mode="after")
    def _activations_need_weights(self) -> LayerEntry:
        if self.weight_bits is None and self.activation_bits is not None:
            raise ValueError(f"layer {self.name} quantizes activations but not weights")
        return self


class Source(Contract):
    """Where the weights come from."""

    name: str
    unet_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    unet_fp32_bytes: int = Field(ge=0, description="parameters of the source U-Net at 4 bytes each")


class CheckpointManifest(Contract):
    """``s2p.json``."""

    format: Literal["s2p-checkpoint"] = "s2p-checkpoint"
    version: int = CHECKPOINT_VERSION
    producer: str
    family: str
    source: Source
    method: str
    recipe: dict[str, Any]
    seed: int = Field(ge=0)
    plan: SamplingPlan
    guidance: float
    latents: LatentSpec
    tokenizer: TokenizerSpec
    unet_config: dict[str, Any]
    layers: tuple[LayerEntry, ...] = Field(description="every layer, in the order in which they run")
    golden: tuple[GoldenRun, ...] = Field(
        description="FP runs: the tensors of a bundle's golden run without the quantized ones"
    )
    files: dict[str, FileEntry]

    @property
    def title(self) -> str:
        """Model, method and recipe in a few words."""
        return f"{self.source.name} ({self.method}, {self.recipe.get('name', 'own recipe')})"

    @property
    def layer_counts(self) -> dict[str, int]:
        """Number of layers per weight width, ``float`` for the unquantized; 4 and 8 are always there."""
        counts = {"4": 0, "8": 0, "float": 0}
        for entry in self.layers:
            key = "float" if entry.weight_bits is None else str(entry.weight_bits)
            counts[key] = counts.get(key, 0) + 1
        return counts

    @property
    def average_weight_bits(self) -> float:
        """Bits per weight over the quantized layers."""
        specs = {spec.name: spec for spec in layer_specs(UNetStructure.from_config(self.unet_config))}
        quantized = [(entry.weight_bits, specs[entry.name].weights) for entry in self.layers if entry.weight_bits is not None]
        total = sum(weights for _, weights in quantized)
        return sum(bits * weights for bits, weights in quantized) / total if total else 0.0


@dataclass(frozen=True)
class QuantizedLayer:
    """Integers and scales of one layer.

    Attributes:
        spec: the layer.
        weight_bits, activation_bits: widths; ``activation_bits`` None for float activations.
        integers: int8, shape ``spec.weight_shape``.
        scale: float16 [C_out].
        bias: float32 [C_out] or None.
        activation_scale: float32 [T] or None.
    """

    spec: LayerSpec
    weight_bits: int
    activation_bits: int | None
    integers: NDArray[np.int8]
    scale: NDArray[np.float16]
    bias: NDArray[np.float32] | None
    activation_scale: NDArray[np.float32] | None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        folder: where it was read from.
        layers: quantized layers by name.
        floats: every other tensor of the U-Net by its diffusers name.
        time_tables: ``<resnet>.time`` -> float32 [T, C_out].
    """

    folder: Path
    manifest: CheckpointManifest
    structure: UNetStructure
    layers: dict[str, QuantizedLayer]
    floats: dict[str, Array]
    time_tables: dict[str, NDArray[np.float32]]

    @property
    def specs(self) -> list[LayerSpec]:
        """Every layer in the order in which they run."""
        return layer_specs(self.structure)


def write_checkpoint_tensors(
    folder: Path,
    layers: Mapping[str, QuantizedLayer],
    floats: Mapping[str, Array],
    time_tables: Mapping[str, Array],
) -> None:
    """Write the three tensor files of a checkpoint into ``folder``."""
    unet: dict[str, Array] = dict(floats)
    for name, layer in layers.items():
        unet[f"{name}.weight_q"] = pack_nibbles(layer.integers) if packs(layer.weight_bits) else layer.integers
        unet[f"{name}.weight_scale"] = layer.scale
        if layer.bias is not None:
            unet[f"{name}.bias"] = layer.bias
    write_tensors(folder / UNET_FILE, unet)
    columns = [layer.activation_scale for layer in layers.values() if layer.activation_scale is not None]
    steps = next(iter(time_tables.values())).shape[0]
    scales = np.stack(columns, axis=1) if columns else np.zeros((steps, 0), np.float32)
    write_tensors(folder / ACTIVATIONS_FILE, {"scales": scales.astype(np.float32)})
    write_tensors(folder / TIME_TABLE_FILE, dict(time_tables))


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder has a checkpoint's manifest."""
    return (folder / MANIFEST_NAME).is_file()


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint after checking its manifest, every checksum and every tensor.

    Raises:
        S2PError: no checkpoint, future version, file missing, truncated or altered, layer missing, wrong shape, scale that is
            not a positive finite number, integer outside its grid.
    """
    if not folder.is_dir():
        raise S2PError(f"{folder} is not a folder; give a checkpoint made by s2p-mobile quantize")
    if not is_checkpoint(folder):
        raise S2PError(f"{folder} has no {MANIFEST_NAME}; give a checkpoint made by s2p-mobile quantize")
    manifest = read_contract(folder / MANIFEST_NAME, CheckpointManifest, CHECKPOINT_FORMAT, CHECKPOINT_VERSION)
    for name in (UNET_FILE, ACTIVATIONS_FILE, TIME_TABLE_FILE):
        if name not in manifest.files:
            raise S2PError(f"{folder} lists no {name}; make the checkpoint again with s2p-mobile quantize")
    check_files(folder, manifest.files)
    structure = UNetStructure.from_config(manifest.unet_config)
    tensors = read_tensors(folder / UNET_FILE)
    reader = _Reader(folder.name, tensors)
    scales = read_tensors(folder / ACTIVATIONS_FILE).get("scales")
    steps = len(manifest.plan.calls)
    columns = [entry.name for entry in manifest.layers if entry.activation_bits is not None]
    if scales is None or scales.shape != (steps, len(columns)):
        raise reader.error(f"has an activation table of another shape than [{steps}, {len(columns)}]")
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        step, column = np.argwhere(~(np.isfinite(scales) & (scales > 0)))[0]
        raise reader.error(f"has a bad activation scale: layer {columns[column]}, call {step}")
    specs = {spec.name: spec for spec in layer_specs(structure)}
    entries = {entry.name: entry for entry in manifest.layers}
    if missing := [name for name in specs if name not in entries]:
        raise reader.error(f"lacks layer {missing[0]}")
    if unknown := [name for name in entries if name not in specs]:
        raise reader.error(f"has a layer {unknown[0]} that its U-Net does not have")
    layers = {
        name: reader.layer(specs[name], entry, scales[:, columns.index(name)] if name in columns else None)
        for name, entry in entries.items()
        if entry.weight_bits is not None
    }
    for name, entry in entries.items():
        if entry.weight_bits is None:
            reader.expect(f"{name}.weight", specs[name].weight_shape)
    time = _time_tables(reader, read_tensors(folder / TIME_TABLE_FILE), resnet_names(structure), steps)
    return Checkpoint(folder, manifest, structure, layers, reader.rest(), time)


class _Reader:
    """Takes tensors out of ``unet.safetensors`` and complains in the checkpoint's name."""

    def __init__(self, name: str, tensors: dict[str, Array]) -> None:
        self.name, self.tensors, self.taken = name, tensors, set[str]()

    def error(self, what: str) -> S2PError:
        return S2PError(f"checkpoint {self.name} {what}; make it again with s2p-mobile quantize")

    def expect(self, key: str, shape: tuple[int, ...]) -> Array:
        if key not in self.tensors:
            raise self.error(f"lacks {key}")
        value = self.tensors[key]
        if value.shape != shape:
            raise self.error(f"has {key} of shape {list(value.shape)} instead of {list(shape)}")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise self.error(f"has a NaN or infinity in {key}")
        return value

    def layer(self, spec: LayerSpec, entry: LayerEntry, activation_scale: Array | None) -> QuantizedLayer:
        assert entry.weight_bits is not None
        keys = {part: f"{spec.name}.{part}" for part in ("weight_q", "weight_scale", "bias")}
        scale = self.expect(keys["weight_scale"], (spec.out_channels,))
        if scale.dtype != np.float16 or not (scale > 0).all():
            raise self.error(f"has a bad weight scale in layer {spec.name}")
        if packs(entry.weight_bits):
            packed = self.expect(keys["weight_q"], ((spec.weights + 1) // 2,))
            if packed.dtype != np.uint8:
                raise self.error(f"has {keys['weight_q']} of dtype {packed.dtype} instead of uint8")
            integers = unpack_nibbles(packed, spec.weight_shape)
        else:
            integers = self.expect(keys["weight_q"], spec.weight_shape)
            if integers.dtype != np.int8:
                raise self.error(f"has {keys['weight_q']} of dtype {integers.dtype} instead of int8")
        low, high = integer_range(entry.weight_bits)
        if integers.min() < low or integers.max() > high:
            raise self.error(f"has integers outside {entry.weight_bits} bits in layer {spec.name}")
        bias = self.expect(keys["bias"], (spec.out_channels,)).astype(np.float32) if spec.bias else None
        self.taken.update(keys.values())
        return QuantizedLayer(spec, entry.weight_bits, entry.activation_bits, integers, scale, bias, activation_scale)

    def rest(self) -> dict[str, Array]:
        rest = {key: value for key, value in self.tensors.items() if key not in self.taken}
        for key, value in rest.items():
            self.expect(key, value.shape)
        return rest


def _time_tables(
    reader: _Reader, tables: dict[str, Array], resnets: dict[str, int], steps: int
) -> dict[str, NDArray[np.float32]]:
    for name, channels in resnets.items():
        table = tables.get(f"{name}.time")
        if table is None or table.shape != (steps, channels) or not np.isfinite(table).all():
            raise reader.error(f"has no valid time table of {name}")
    return {f"{name}.time": tables[f"{name}.time"].astype(np.float32) for name in resnets}
