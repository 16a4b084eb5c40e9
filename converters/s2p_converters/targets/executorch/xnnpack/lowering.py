"""The U-Net of a checkpoint as one XNNPACK program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from s2p_converters.core.checkpoint import Checkpoint, QuantizedLayer
from s2p_converters.core.graph import prompt_columns
from s2p_converters.targets.executorch.programs import write_program
from s2p_converters.targets.executorch.xnnpack.calibration import output_scales
from s2p_converters.targets.executorch.xnnpack.check import self_check
from s2p_converters.targets.executorch.xnnpack.inspection import LayerNode, check_integers, read_program
from s2p_converters.targets.executorch.xnnpack.operators import uses_four_bits
from s2p_converters.targets.executorch.xnnpack.program import build_program
from s2p_converters.targets.executorch.xnnpack.subgraph import NamedDataStore
from s2p_converters.targets.executorch.xnnpack.unet import UNetProgram, unet_columns, unet_subgraph
from s2p_converters.targets.interface import unet_inputs, unet_output
from s2p_converters.targets.ports import context_shape, example, own_latents, sample_shape
from s2p_converters.targets.protocol import ConvertedUNet, LatentShapes
from s2p_runtime.bundle import LayerSummary
from s2p_runtime.hosts.executorch import HOST

if TYPE_CHECKING:
    from s2p_converters.targets.executorch.options import ExecuTorchOptions

METHOD = HOST.default_method


def integer_layers(checkpoint: Checkpoint) -> dict[str, QuantizedLayer]:
    """Layers that must run on integer kernels: those whose activations are quantized too."""
    return {name: layer for name, layer in checkpoint.layers.items() if layer.activation_bits is not None}


def convert_unet(
    checkpoint: Checkpoint, options: ExecuTorchOptions, folder: Path, shapes: LatentShapes | None = None
) -> ConvertedUNet:
    """Write the quantized U-Net as ``unet.pte`` into a bundle's folder, a method for each shape (None: the checkpoint's own), and
    check the written file.

    Raises:
        S2PError: the recipe needs something that the backend cannot do.
        CheckFailed: a layer does not run on an integer kernel, holds other integers, or computes something else.
    """
    inputs, output = unet_inputs(checkpoint, "int64"), unet_output(checkpoint)
    integer = integer_layers(checkpoint)
    if options.self_check and options.scheme == "pinned":
        self_check(integer, len(checkpoint.manifest.plan.calls))
    scales = output_scales(checkpoint) if options.scheme == "static" else None
    floats = {name: np.asarray(value, np.float32) for name, value in checkpoint.floats.items()}
    of_prompt = prompt_columns(checkpoint.structure)
    columns = unet_columns({} if of_prompt else checkpoint.time_tables, checkpoint.layers, options.scheme)
    store, context, told = NamedDataStore(), context_shape(checkpoint), tuple(map(example, inputs[1:]))
    methods = {}
    for method, latents in (shapes or {METHOD: own_latents(checkpoint)}).items():
        shape = sample_shape(checkpoint, latents)
        graph = unet_subgraph(
            checkpoint.structure, checkpoint.layers, floats, columns, shape, context, options.scheme, scales, store, of_prompt
        )
        methods[method] = (UNetProgram(columns, graph), (torch.zeros(shape), *told))
    data = build_program(methods)
    # They hold every weight once more.
    del graph, methods, store
    summary = read_program(data)
    component = write_program(folder / "unet.pte", data, options.backend, inputs, (output,))
    names = [spec.name for spec in checkpoint.specs]
    check_integers(summary, names, integer, options.scheme)
    return ConvertedUNet({"unet": component}, layer_summaries(checkpoint, summary.layers, names, options))


def layer_summaries(
    checkpoint: Checkpoint, found: Sequence[LayerNode], names: list[str], options: ExecuTorchOptions
) -> tuple[LayerSummary, ...]:
    """How each layer of the U-Net rests, from the nodes that stand in its file or files."""
    stored: dict[str, list[LayerNode]] = {}
    for node in found:
        if node.place and node.method == METHOD:
            stored.setdefault(names[node.place - 1], []).append(node)
    rows = []
    for spec in checkpoint.specs:
        layer = checkpoint.layers.get(spec.name)
        integer = layer is not None and layer.activation_bits is not None
        nodes = stored[spec.name]
        scheme = "float32"
        if integer and layer is not None:
            scheme = f"{options.scheme} int8 activations, {'int4' if uses_four_bits(layer) else 'int8'} weights"
        rows.append(
            LayerSummary(
                name=spec.name,
                kind=spec.kind,
                weight_bits=layer.weight_bits if integer and layer is not None else 32,
                activation_bits=layer.activation_bits if layer is not None else None,
                scheme=scheme,
                weights=spec.weights,
                bytes=sum(len(node.filter_bytes) + (0 if node.scale is None else node.scale.nbytes) for node in nodes),
            )
        )
    return tuple(rows)
