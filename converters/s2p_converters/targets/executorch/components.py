"""The three components of an ExecuTorch bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from s2p_converters.core.checkpoint import Checkpoint, QuantizedLayer
from s2p_converters.core.graph import resnet_names
from s2p_converters.core.graph.structure import TIME_IDS
from s2p_converters.core.reference import CHECKPOINT_CONSTANTS, Constants, reference_unet, time_network
from s2p_converters.targets.executorch.options import ExecuTorchOptions
from s2p_converters.targets.executorch.partitioned import lower, lower_methods
from s2p_converters.targets.executorch.xnnpack.calibration import output_scales
from s2p_converters.targets.executorch.xnnpack.check import self_check
from s2p_converters.targets.executorch.xnnpack.inspection import LayerNode, ProgramSummary, check_integers, read_program
from s2p_converters.targets.executorch.xnnpack.operators import uses_four_bits
from s2p_converters.targets.executorch.xnnpack.program import build_program
from s2p_converters.targets.executorch.xnnpack.subgraph import NamedDataStore
from s2p_converters.targets.executorch.xnnpack.unet import UNetProgram, unet_columns, unet_subgraph
from s2p_converters.targets.float_components import decoder_module, text_encoder_module, text_encoders_module
from s2p_runtime.bundle import LayerSummary
from s2p_runtime.component import Component, TensorSpec
from s2p_runtime.errors import CheckFailed
from s2p_runtime.executorch import DEFAULT_METHOD

METHOD = DEFAULT_METHOD
LatentShapes = Mapping[str, tuple[int, int]]
"""Latent height and width by method, :data:`METHOD` first."""


@dataclass(frozen=True)
class ComponentInfo:
    """A written program.

    Attributes:
        component: manifest entry.
        delegates: number of subgraphs handed to the backend.
        operators: portable operators outside of them.
        layers: how each layer rests (U-Net only).
    """

    component: Component
    delegates: int
    operators: tuple[str, ...]
    layers: tuple[LayerSummary, ...] = ()


def program_constants(options: ExecuTorchOptions) -> Constants:
    """How the programs store real numbers, for :func:`s2p_converters.core.reference.reference_unet`."""
    return replace(CHECKPOINT_CONSTANTS, activations=options.backend == "xnnpack")


def unet_shapes(checkpoint: Checkpoint) -> tuple[tuple[int, int, int, int], tuple[int, int, int]]:
    """Shapes of ``sample`` and ``encoder_hidden_states``."""
    latents, batch = checkpoint.manifest.latents, 2 if checkpoint.manifest.guidance > 1 else 1
    tokens = checkpoint.manifest.tokenizer.max_length
    return (batch, latents.channels, latents.height, latents.width), (batch, tokens, checkpoint.structure.context_dim)


def integer_layers(checkpoint: Checkpoint) -> dict[str, QuantizedLayer]:
    """Layers that must run on integer kernels: those whose activations are quantized too."""
    return {name: layer for name, layer in checkpoint.layers.items() if layer.activation_bits is not None}


def convert_unet(
    checkpoint: Checkpoint, path: Path, options: ExecuTorchOptions, sizes: LatentShapes | None = None
) -> ComponentInfo:
    """Write the quantized U-Net as ``path`` (.pte), a method for each size (None: the checkpoint's), and check the written file.

    Raises:
        S2PError: the recipe needs something that the backend cannot do.
        CheckFailed: a layer does not run on an integer kernel, holds other integers, or computes something else.
    """
    sample, context = unet_shapes(checkpoint)
    specs = _unet_specs(checkpoint)
    inputs = tuple(torch.zeros(port.shape, dtype=getattr(torch, port.dtype)) for port in specs[0])
    if options.backend != "xnnpack":
        unet = reference_unet(checkpoint, program_constants(options)).float()
        info = write_program(path, lower(unet, inputs, options.backend), options, specs)
        return ComponentInfo(info.component, info.delegates, info.operators, _float_layers(checkpoint))
    integer = integer_layers(checkpoint)
    if options.self_check and options.scheme == "pinned":
        self_check(integer, len(checkpoint.manifest.plan.calls))
    scales = output_scales(checkpoint) if options.scheme == "static" else None
    floats = {name: np.asarray(value, np.float32) for name, value in checkpoint.floats.items()}
    of_prompt = prompt_columns(checkpoint)
    columns = unet_columns({} if of_prompt else checkpoint.time_tables, checkpoint.layers, options.scheme)
    store = NamedDataStore()
    methods = {}
    for method, (height, width) in (sizes or {METHOD: sample[2:]}).items():
        shape = (*sample[:2], height, width)
        graph = unet_subgraph(
            checkpoint.structure, checkpoint.layers, floats, columns, shape, context, options.scheme, scales, store, of_prompt
        )
        methods[method] = (UNetProgram(columns, graph), (torch.zeros(shape), *inputs[1:]))
    data = build_program(methods)
    # They hold every weight once more.
    del graph, methods, store
    summary = read_program(data)
    info = write_program(path, data, options, specs, summary)
    names = [spec.name for spec in checkpoint.specs]
    check_integers(summary, names, integer, options.scheme)
    return ComponentInfo(
        info.component, info.delegates, info.operators, layer_summaries(checkpoint, summary.layers, names, options)
    )


def prompt_columns(checkpoint: Checkpoint) -> dict[str, int]:
    """Columns of the prompt's time table and their widths (SDXL); empty where all prompts have one."""
    if checkpoint.manifest.conditioning is None:
        return {}
    return {f"{name}.time": width for name, width in resnet_names(checkpoint.structure).items()}


def time_table_specs(checkpoint: Checkpoint) -> tuple[tuple[TensorSpec, TensorSpec], TensorSpec]:
    """Inputs and output of the program that makes an SDXL prompt's time table."""
    structure, manifest = checkpoint.structure, checkpoint.manifest
    assert structure.text_time is not None
    batch = 2 if manifest.guidance > 1 else 1
    pooled = TensorSpec(name="pooled_text", dtype="float32", shape=(batch, structure.text_time.pooled_dim))
    ids = TensorSpec(name="time_ids", dtype="float32", shape=(batch, TIME_IDS))
    table = (batch, len(manifest.plan.calls), sum(prompt_columns(checkpoint).values()))
    return (pooled, ids), TensorSpec(name="time_table", dtype="float32", shape=table)


def _unet_specs(checkpoint: Checkpoint) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    sample, context = unet_shapes(checkpoint)
    inputs = (
        TensorSpec(name="sample", dtype="float32", shape=sample),
        TensorSpec(name="step", dtype="int64", shape=(1,)),
        TensorSpec(name="encoder_hidden_states", dtype="float32", shape=context),
    )
    table = () if checkpoint.manifest.conditioning is None else (time_table_specs(checkpoint)[1],)
    return (*inputs, *table), (TensorSpec(name="noise_pred", dtype="float32", shape=sample),)


def write_program(
    path: Path,
    data: bytes,
    options: ExecuTorchOptions,
    specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
    summary: ProgramSummary | None = None,
) -> ComponentInfo:
    """Write a .pte whose inputs and outputs are ``specs``.

    Args:
        summary: of ``data``, where the caller has taken it apart already.

    Raises:
        CheckFailed: the backend took nothing of it.
    """
    path.write_bytes(data)
    summary = summary or read_program(data)
    if not summary.delegates:
        raise CheckFailed(f"{options.backend} took nothing of {path.name}", "use `backend=xnnpack`", "backend")
    component = Component(
        path=path.name,
        precision="float32",
        inputs=specs[0],
        outputs=specs[1],
        backend=f"{options.backend} executorch {version('executorch')}",
    )
    return ComponentInfo(component, len(summary.delegates), summary.operators)


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


def _float_layers(checkpoint: Checkpoint) -> tuple[LayerSummary, ...]:
    return tuple(
        LayerSummary(
            name=spec.name, kind=spec.kind, weight_bits=32, activation_bits=None, scheme="float32",
            weights=spec.weights, bytes=4 * spec.weights,
        )
        for spec in checkpoint.specs
    )  # fmt: skip


def convert_time_table(checkpoint: Checkpoint, path: Path, options: ExecuTorchOptions) -> ComponentInfo:
    """Write the program that makes an SDXL prompt's time table, in float32: pooled_text [B, P], time_ids [B, 6] -> [B, T, K]."""
    inputs, output = time_table_specs(checkpoint)
    examples = tuple(torch.zeros(port.shape) for port in inputs)
    data = lower(time_network(checkpoint).float(), examples, options.backend)
    return write_program(path, data, options, (inputs, (output,)))


def convert_text_encoders(checkpoint: Checkpoint, path: Path, options: ExecuTorchOptions) -> ComponentInfo:
    """Write an SDXL checkpoint's two text encoders as one program in float32: input_ids and second_input_ids, int32 [1, N] ->
    hidden_states [1, N, D], pooled_text [1, P]."""
    tokens, structure = checkpoint.manifest.tokenizer.max_length, checkpoint.structure
    assert structure.text_time is not None
    inputs = tuple(TensorSpec(name=name, dtype="int32", shape=(1, tokens)) for name in ("input_ids", "second_input_ids"))
    outputs = (
        TensorSpec(name="hidden_states", dtype="float32", shape=(1, tokens, structure.context_dim)),
        TensorSpec(name="pooled_text", dtype="float32", shape=(1, structure.text_time.pooled_dim)),
    )
    examples = tuple(torch.zeros(1, tokens, dtype=torch.int32) for _ in inputs)
    return write_program(path, lower(text_encoders_module(checkpoint), examples, options.backend), options, (inputs, outputs))


def convert_text_encoder(checkpoint: Checkpoint, path: Path, options: ExecuTorchOptions) -> ComponentInfo:
    """Write the text encoder in float32: input_ids int32 [1, N] -> last_hidden_state [1, N, D]; SDXL's two as one program."""
    if checkpoint.manifest.conditioning is not None:
        return convert_text_encoders(checkpoint, path, options)
    tokens = checkpoint.manifest.tokenizer.max_length
    ids = torch.zeros(1, tokens, dtype=torch.int32)
    specs = (
        (TensorSpec(name="input_ids", dtype="int32", shape=(1, tokens)),),
        (TensorSpec(name="last_hidden_state", dtype="float32", shape=(1, tokens, checkpoint.structure.context_dim)),),
    )
    return write_program(path, lower(text_encoder_module(checkpoint), (ids,), options.backend), options, specs)


def convert_vae_decoder(
    checkpoint: Checkpoint, path: Path, options: ExecuTorchOptions, sizes: LatentShapes | None = None
) -> ComponentInfo:
    """Write the VAE decoder in float32, a method for each size: latents [1, C, H, W] -> image [1, 3, 8H, 8W]."""
    spec = checkpoint.manifest.latents
    latents = torch.zeros(1, spec.channels, spec.height, spec.width)
    module = decoder_module(checkpoint)
    with torch.no_grad():
        image = tuple(module(latents).shape)
    specs = (
        (TensorSpec(name="latents", dtype="float32", shape=tuple(latents.shape)),),
        (TensorSpec(name="image", dtype="float32", shape=image),),
    )
    shapes = sizes or {METHOD: (spec.height, spec.width)}
    methods = {method: (torch.zeros(1, spec.channels, *shape),) for method, shape in shapes.items()}
    return write_program(path, lower_methods(module, methods, options.backend), options, specs)


def eager_component(module: nn.Module) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    """A module as a function on arrays, in eager torch."""

    @torch.no_grad()
    def call(value: NDArray[Any]) -> NDArray[np.float32]:
        out: NDArray[np.float32] = module(torch.from_numpy(value)).numpy()
        return out

    return call
