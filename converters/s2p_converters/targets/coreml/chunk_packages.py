"""The U-Net as several ML Programs that run one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.graph import StepUNet
from s2p_converters.core.graph.splitting import CONTEXT, STEP, Chunk, UNetChunk, chunk_inputs, chunk_tables
from s2p_converters.targets.coreml.apple import TimestepUNet, call_at, text_tokens
from s2p_converters.targets.coreml.components import component_entry, unet_module, unet_ports
from s2p_converters.targets.coreml.emission import WeightTable, constant_name, emitted_weight
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_converters.targets.coreml.package import convert_module
from s2p_converters.targets.integer_programs import layer_summaries, program_layers
from s2p_converters.targets.interface import planned_chunks
from s2p_converters.targets.ports import Dtype
from s2p_converters.targets.protocol import ConvertedUNet


def convert_chunks(checkpoint: Checkpoint, options: CoreMLOptions, folder: Path) -> ConvertedUNet:
    """Write the quantized U-Net into a bundle's folder as ``options.chunks`` programs.

    Tensors between programs have the programs' own precision, so that nothing is rounded that the whole would not round.

    Raises:
        S2PError: a layer can overflow float16, a conversion fails, or the U-Net has fewer units than that.
    """
    unet = unet_module(checkpoint, options)
    emitted = {name: emitted_weight(layer, options) for name, layer in program_layers(checkpoint, options.form).items()}
    layers = layer_summaries(checkpoint, emitted, options.half, options.quantizes_activations)
    ports, output = unet_ports(checkpoint, options)
    costs = {layer.name: layer.bytes for layer in layers}
    between: Dtype = "float16" if options.half else "float32"
    plan, by_name = planned_chunks(checkpoint, options.chunks, costs, ports, output, between)
    components = {}
    for number, chunk in enumerate(plan, 1):
        module = _module(unet, chunk)
        inputs, outputs = [by_name[name] for name in module.inputs], [by_name[name] for name in chunk.outputs]
        path = options.chunk_package(number)
        weights = {constant_name(name): weight for name, weight in emitted.items() if chunk.holds(name)}
        convert_module(
            module, inputs, outputs, folder / path,
            minimum_os=options.minimum_os, half=options.half, weights=WeightTable(weights),
        )  # fmt: skip
        components[f"unet_{number}"] = component_entry(path, inputs, outputs, options, options.half)
    return ConvertedUNet(components, layers)


class _Chunk(UNetChunk):
    """A chunk as it is exported: what comes from other programs arrives in the program's own precision."""

    def own_names(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.float() if value.dtype == torch.float16 else value for name, value in values.items()}


class _TimestepChunk(_Chunk):
    """A chunk of a :class:`TimestepUNet`. Apple's pipeline gives the second program the U-Net inputs and the first one's outputs."""

    thresholds: Tensor

    def __init__(self, unet: TimestepUNet, chunk: Chunk, inputs: Sequence[str], tables: nn.Module | None) -> None:
        super().__init__(unet, chunk, ["timestep" if name == STEP else name for name in inputs], tables)
        self.register_buffer("thresholds", unet.thresholds)

    def own_names(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        known = super().own_names(values)
        if "timestep" in known:
            known[STEP] = call_at(known.pop("timestep"), self.thresholds)
        if CONTEXT in known:
            known[CONTEXT] = text_tokens(known[CONTEXT])
        return known


def _module(unet: StepUNet, chunk: Chunk) -> UNetChunk:
    tables = chunk_tables(unet.tables, chunk)
    inputs = chunk_inputs(chunk, tables)
    return (
        _TimestepChunk(unet, chunk, inputs, tables) if isinstance(unet, TimestepUNet) else _Chunk(unet, chunk, inputs, tables)
    )
