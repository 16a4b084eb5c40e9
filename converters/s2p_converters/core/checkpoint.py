"""The S2P checkpoint: integers, scales and tables, readable with safetensors and JSON alone.

The folder holds ``s2p.json`` (:class:`CheckpointManifest`), ``unet.safetensors``, ``activations.safetensors``,
``time_table.safetensors``, ``golden/*.safetensors`` and the untouched ``text_encoder``, ``vae``, ``tokenizer`` and
``scheduler`` folders of the source model; where the time table belongs to the prompt also ``time_network.safetensors``, and the
folders of further text encoders and tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_converters.core.checkpoint_manifest import CHECKPOINT_FORMAT, CHECKPOINT_VERSION, CheckpointManifest
from s2p_converters.core.graph.operators import LayerSpec
from s2p_converters.core.graph.structure import UNetStructure, layer_specs, resnet_names
from s2p_converters.core.graph.time_network import time_network_shapes
from s2p_converters.core.grids import GeneralLayer, activation_tensors, weight_tensors
from s2p_converters.core.grids import QuantizedLayer as QuantizedLayer
from s2p_converters.core.packing import pack_nibbles, packs
from s2p_converters.core.tensor_reader import GridReader, TensorReader, time_tables
from s2p_runtime.bundle import check_files
from s2p_runtime.contract import read_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.tensors import TensorFile, read_tensors, write_tensors

MANIFEST_NAME = "s2p.json"
UNET_FILE = "unet.safetensors"
ACTIVATIONS_FILE = "activations.safetensors"
TIME_TABLE_FILE = "time_table.safetensors"
TIME_NETWORK_FILE = "time_network.safetensors"

Array = NDArray[Any]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        folder: where it was read from.
        layers: quantized layers with symmetric grids, by name.
        floats: every other tensor of the U-Net by its diffusers name.
        time_tables: ``<resnet>.time`` -> float32 [T, C_out].
        general: quantized layers with other grids, by name.
        time_network: tensors of the :class:`TimeNetwork` but its ``rows``, which are the time tables; empty where all
            prompts share a table.
    """

    folder: Path
    manifest: CheckpointManifest
    structure: UNetStructure
    layers: dict[str, QuantizedLayer]
    floats: dict[str, Array]
    time_tables: dict[str, NDArray[np.float32]]
    general: dict[str, GeneralLayer] = field(default_factory=dict)
    time_network: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def specs(self) -> list[LayerSpec]:
        """Every layer in the order in which they run."""
        return layer_specs(self.structure)


def write_checkpoint_tensors(
    folder: Path,
    layers: Mapping[str, QuantizedLayer],
    floats: Mapping[str, Array],
    time_tables: Mapping[str, Array],
    general: Mapping[str, GeneralLayer] | None = None,
    time_network: Mapping[str, Array] | None = None,
) -> None:
    """Write the tensor files of a checkpoint into ``folder``."""
    unet: dict[str, Array] = dict(floats)
    others: dict[str, Array] = {}
    for other in (general or {}).values():
        unet |= weight_tensors(other)
        others |= activation_tensors(other)
    for name, layer in layers.items():
        unet[f"{name}.weight_q"] = pack_nibbles(layer.integers) if packs(layer.weight_bits) else layer.integers
        unet[f"{name}.weight_scale"] = layer.scale
        if layer.bias is not None:
            unet[f"{name}.bias"] = layer.bias
    write_tensors(folder / UNET_FILE, unet)
    columns = [layer.activation_scale for layer in layers.values() if layer.activation_scale is not None]
    steps = next(iter(time_tables.values())).shape[0]
    scales = np.stack(columns, axis=1) if columns else np.zeros((steps, 0), np.float32)
    write_tensors(folder / ACTIVATIONS_FILE, {"scales": scales.astype(np.float32), **others})
    write_tensors(folder / TIME_TABLE_FILE, dict(time_tables))
    if time_network:
        write_tensors(folder / TIME_NETWORK_FILE, dict(time_network))


def require_symmetric(checkpoint: Checkpoint) -> None:
    """Demand grids that a target's program computes exactly.

    Raises:
        S2PError: the checkpoint holds others (names the first and why).
    """
    reason = None
    for entry in checkpoint.manifest.layers:
        if entry.grid == "palette":
            reason = f"layer {entry.name} has a palette of its own"
        elif entry.is_general:
            what = "a split input" if entry.split else "a rounded output" if entry.quantizes_output else "zero points"
            reason = f"layer {entry.name} has {what}"
        if reason:
            break
    else:
        if checkpoint.manifest.softmax_bits is not None:
            reason = f"its attention weights are rounded to {checkpoint.manifest.softmax_bits} bits"
    if reason:
        raise S2PError(
            f"checkpoint {checkpoint.folder.name} ({checkpoint.manifest.method}) cannot be converted exactly: {reason}, and programs "
            "compute symmetric grids",
            "compare it with s2p-mobile evaluate, or convert one of another method",
        )


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder has a checkpoint's manifest."""
    return (folder / MANIFEST_NAME).is_file()


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint after checking its manifest, every checksum and every tensor.

    Raises:
        S2PError: no checkpoint, newer version, file missing, truncated or altered, layer missing, wrong shape, scale that is
            not a positive finite number, integer outside its grid.
    """
    if not folder.is_dir():
        raise S2PError(f"{folder} is not a folder", "give a checkpoint made by s2p-mobile quantize")
    if not is_checkpoint(folder):
        raise S2PError(f"{folder} has no {MANIFEST_NAME}", "give a checkpoint made by s2p-mobile quantize")
    manifest = read_contract(folder / MANIFEST_NAME, CheckpointManifest, CHECKPOINT_FORMAT, CHECKPOINT_VERSION)
    own = () if manifest.conditioning is None else (TIME_NETWORK_FILE,)
    for name in (UNET_FILE, ACTIVATIONS_FILE, TIME_TABLE_FILE, *own):
        if name not in manifest.files:
            raise S2PError(f"{folder} lists no {name}", "make the checkpoint again with s2p-mobile quantize")
    check_files(folder, manifest.files)
    structure = manifest.structure
    reader = TensorReader(folder.name, TensorFile(folder / UNET_FILE))
    activations = read_tensors(folder / ACTIVATIONS_FILE)
    scales = activations.get("scales")
    steps = len(manifest.plan.calls)
    columns = [entry.name for entry in manifest.layers if entry.activation_bits is not None and entry.grid == "symmetric"]
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
        name: reader.symmetric(specs[name], entry, scales[:, columns.index(name)] if name in columns else None)
        for name, entry in entries.items()
        if entry.weight_bits is not None and not entry.is_general
    }
    grids = GridReader(TensorReader(folder.name, activations), steps)
    general = {name: reader.general(specs[name], entry, grids) for name, entry in entries.items() if entry.is_general}
    for name, entry in entries.items():
        if entry.weight_bits is None:
            reader.expect(f"{name}.weight", specs[name].weight_shape)
    time = time_tables(reader, read_tensors(folder / TIME_TABLE_FILE), resnet_names(structure), steps)
    if (structure.text_time is None) != (manifest.conditioning is None):
        raise reader.error("has a time path that does not fit its U-Net")
    network = {} if manifest.conditioning is None else _time_network(folder, manifest, structure)
    return Checkpoint(folder, manifest, structure, layers, reader.rest(), time, general, network)


def _time_network(folder: Path, manifest: CheckpointManifest, structure: UNetStructure) -> dict[str, NDArray[np.float32]]:
    reader = TensorReader(folder.name, read_tensors(folder / TIME_NETWORK_FILE))
    shapes = time_network_shapes(structure, manifest.unet_config, len(manifest.plan.calls))
    return {name: reader.expect(name, shape).astype(np.float32) for name, shape in shapes.items()}
