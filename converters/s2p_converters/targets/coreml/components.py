"""The three components of a Core ML bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from s2p_converters.core.checkpoint import Checkpoint, QuantizedLayer
from s2p_converters.core.graph import StepUNet, resnet_names
from s2p_converters.core.graph.structure import TIME_IDS
from s2p_converters.core.reference import (
    Constants,
    exact,
    load_floats,
    step_tables,
    table_columns,
    time_network,
    to_float16,
    to_float32,
)
from s2p_converters.targets.coreml.apple import FloatIdsTextEncoder, TimestepUNet, unet_inputs
from s2p_converters.targets.coreml.emission import EmittedWeight, WeightTable, constant_name, emitted_weight
from s2p_converters.targets.coreml.functions import merge_functions
from s2p_converters.targets.coreml.layers import CoreMLOperators, check_float16_range
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_converters.targets.coreml.package import Port, convert_module
from s2p_converters.targets.float_components import decoder_module, text_encoder_module, text_encoders_module
from s2p_runtime.bundle import LayerSummary
from s2p_runtime.component import Component
from s2p_runtime.mil_backend import DEFAULT_FUNCTION

LatentShapes = Mapping[str, tuple[int, int]]
"""Latent height and width by function, the checkpoint's own first."""


def program_constants(options: CoreMLOptions) -> Constants:
    """How the emitted program stores real numbers, for :func:`s2p_converters.core.reference.reference_unet`.

    The entries of a per-channel palette are ``scale * integer`` rounded to the program's precision. All other forms multiply
    exact integers by an exact float16 scale at run time.
    """
    stored = to_float16 if options.half else to_float32

    def weight(layer: QuantizedLayer, value: Tensor) -> Tensor:
        return stored(value) if options.per_channel and emitted_weight(layer, options).is_palette else value

    return Constants(stored, weight, options.quantizes_activations)


def _own_shape(checkpoint: Checkpoint) -> LatentShapes:
    latents = checkpoint.manifest.latents
    return {DEFAULT_FUNCTION: (latents.height, latents.width)}


def unet_ports(checkpoint: Checkpoint, options: CoreMLOptions, size: tuple[int, int]) -> tuple[list[Port], Port]:
    """Inputs and output of the U-Net in the chosen layout, for latents of a height and width."""
    batch = 2 if checkpoint.manifest.guidance > 1 else 1
    shape = (batch, checkpoint.manifest.latents.channels, *size)
    tokens = checkpoint.manifest.tokenizer.max_length
    inputs = [
        Port("sample", shape),
        Port("step", (1,), "int32"),
        Port("encoder_hidden_states", (batch, tokens, checkpoint.structure.context_dim)),
    ]
    if checkpoint.manifest.conditioning is not None:
        inputs.append(time_table_ports(checkpoint)[1])
    output = Port("noise_pred", (batch, checkpoint.structure.out_channels, *size))
    return unet_inputs(inputs) if options.layout == "apple" else inputs, output


def _write_functions(sizes: LatentShapes, path: Path, write: Callable[[tuple[int, int], Path], None]) -> None:
    """One program by ``write`` for a single size; for several a function each, sharing their weights."""
    if len(sizes) == 1:
        write(next(iter(sizes.values())), path)
        return
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        packages = {function: Path(scratch) / f"{function}.mlpackage" for function in sizes}
        for function, size in sizes.items():
            write(size, packages[function])
        merge_functions(packages, path)


def unet_module(checkpoint: Checkpoint, options: CoreMLOptions) -> StepUNet:
    """The U-Net as it is exported.

    Raises:
        S2PError: a layer can overflow float16.
    """
    if options.half:
        for layer in checkpoint.layers.values():
            check_float16_range(layer, options)
    columns = {name: table.float() for name, table in table_columns(checkpoint, exact, options.quantizes_activations).items()}
    tables, operators = step_tables(columns, checkpoint), CoreMLOperators(checkpoint.layers, options)
    if options.layout == "apple":
        unet: StepUNet = TimestepUNet(checkpoint.structure, tables, operators, checkpoint.manifest.plan.timesteps)
    else:
        unet = StepUNet(checkpoint.structure, tables, operators)
    load_floats(unet, checkpoint, exact, skip={f"{name}.weight" for name in checkpoint.layers})
    return unet


@dataclass(frozen=True)
class ConvertedUNet:
    """The written U-Net: its manifest entry and how each layer rests."""

    component: Component
    layers: tuple[LayerSummary, ...]


def convert_unet(
    checkpoint: Checkpoint, options: CoreMLOptions, folder: Path, sizes: LatentShapes | None = None
) -> ConvertedUNet:
    """Write the quantized U-Net into a bundle's folder, a function for each size (None: the checkpoint's).

    Raises:
        S2PError: a layer can overflow float16, or the conversion fails.
    """
    unet = unet_module(checkpoint, options)
    emitted = {name: emitted_weight(layer, options) for name, layer in checkpoint.layers.items()}
    sizes = sizes or _own_shape(checkpoint)

    def write(size: tuple[int, int], path: Path) -> None:
        table = WeightTable({constant_name(name): weight for name, weight in emitted.items()})
        ports = unet_ports(checkpoint, options, size)
        convert_module(unet, *ports, path, minimum_os=options.minimum_os, half=options.half, weights=table)

    _write_functions(sizes, folder / options.packages["unet"], write)
    inputs, output = unet_ports(checkpoint, options, next(iter(sizes.values())))
    component = component_entry(options.packages["unet"], inputs, [output], options.minimum_os, options.half)
    return ConvertedUNet(component, layer_summaries(checkpoint, emitted, options))


def layer_summaries(
    checkpoint: Checkpoint, emitted: dict[str, EmittedWeight], options: CoreMLOptions
) -> tuple[LayerSummary, ...]:
    """How each layer of the U-Net rests, in the order in which they run."""
    width = 16 if options.half else 32
    rows = []
    for spec in checkpoint.specs:
        layer: QuantizedLayer | None = checkpoint.layers.get(spec.name)
        rows.append(
            LayerSummary(
                name=spec.name,
                kind=spec.kind,
                weight_bits=layer.weight_bits if layer else width,
                activation_bits=layer.activation_bits if layer and options.quantizes_activations else None,
                scheme=emitted[spec.name].scheme if layer else f"float{width}",
                weights=spec.weights,
                bytes=emitted[spec.name].stored_bytes if layer else spec.weights * width // 8,
            )
        )
    return tuple(rows)


def time_table_ports(checkpoint: Checkpoint) -> tuple[list[Port], Port]:
    """Inputs and output of the program that makes an SDXL prompt's time table."""
    structure, manifest = checkpoint.structure, checkpoint.manifest
    assert structure.text_time is not None
    batch = 2 if manifest.guidance > 1 else 1
    inputs = [Port("pooled_text", (batch, structure.text_time.pooled_dim)), Port("time_ids", (batch, TIME_IDS))]
    return inputs, Port("time_table", (batch, len(manifest.plan.calls), sum(resnet_names(structure).values())))


def convert_time_table(checkpoint: Checkpoint, options: CoreMLOptions, folder: Path) -> Component:
    """Write the program that makes an SDXL prompt's time table into a bundle's folder.

    Always in float32: a time id of 1024 times a frequency is an angle whose float16 neighbours are 1 apart (0.06 at 100), so its
    sine would be noise. It runs once for a picture, and its table is rounded to the U-Net's precision there.
    """
    inputs, output = time_table_ports(checkpoint)
    path = options.packages["time_table"]
    network = time_network(checkpoint).float()
    convert_module(network, inputs, output, folder / path, minimum_os=options.minimum_os, half=False)
    return component_entry(path, inputs, [output], options.minimum_os, False)


def convert_text_encoders(checkpoint: Checkpoint, options: CoreMLOptions, folder: Path) -> Component:
    """Write an SDXL checkpoint's two text encoders into a bundle's folder, as one program."""
    tokens, structure = checkpoint.manifest.tokenizer.max_length, checkpoint.structure
    assert structure.text_time is not None
    inputs = [Port("input_ids", (1, tokens), "int32"), Port("second_input_ids", (1, tokens), "int32")]
    outputs = [
        Port("hidden_states", (1, tokens, structure.context_dim)),
        Port("pooled_text", (1, structure.text_time.pooled_dim)),
    ]
    module, path = text_encoders_module(checkpoint), options.packages["text_encoder"]
    convert_module(module, inputs, outputs, folder / path, minimum_os=options.minimum_os, half=options.half)
    return component_entry(path, inputs, outputs, options.minimum_os, options.half)


def convert_text_encoder(checkpoint: Checkpoint, options: CoreMLOptions, folder: Path) -> Component:
    """Write the text encoder into a bundle's folder; SDXL's two as one program."""
    if checkpoint.manifest.conditioning is not None:
        return convert_text_encoders(checkpoint, options, folder)
    tokens = checkpoint.manifest.tokenizer.max_length
    apple = options.layout == "apple"
    source = Port("input_ids", (1, tokens), "float32" if apple else "int32")
    output = Port("last_hidden_state", (1, tokens, checkpoint.structure.context_dim))
    encoder = text_encoder_module(checkpoint)
    module = FloatIdsTextEncoder(encoder) if apple else encoder
    path = folder / options.packages["text_encoder"]
    convert_module(module, [source], output, path, minimum_os=options.minimum_os, half=options.half)
    return component_entry(options.packages["text_encoder"], [source], [output], options.minimum_os, options.half)


def convert_vae_decoder(
    checkpoint: Checkpoint, options: CoreMLOptions, folder: Path, sizes: LatentShapes | None = None
) -> Component:
    """Write the VAE decoder into a bundle's folder, a function for each size (None: the checkpoint's)."""
    sizes = sizes or _own_shape(checkpoint)
    name = "z" if options.layout == "apple" else "latents"
    module, half = decoder_module(checkpoint), options.vae_precision == "fp16"

    def ports(size: tuple[int, int]) -> tuple[Port, Port]:
        source = Port(name, (1, checkpoint.manifest.latents.channels, *size))
        with torch.no_grad():
            return source, Port("image", tuple(module(source.example()).shape))

    def write(size: tuple[int, int], path: Path) -> None:
        source, output = ports(size)
        convert_module(module, [source], output, path, minimum_os=options.minimum_os, half=half)

    _write_functions(sizes, folder / options.packages["vae_decoder"], write)
    source, output = ports(next(iter(sizes.values())))
    return component_entry(options.packages["vae_decoder"], [source], [output], options.minimum_os, half)


def component_entry(path: str, inputs: list[Port], outputs: Sequence[Port], minimum_os: str, half: bool) -> Component:
    """A program for the manifest."""
    return Component(
        path=path,
        precision="float16" if half else "float32",
        inputs=tuple(port.spec for port in inputs),
        outputs=tuple(port.spec for port in outputs),
        backend=f"mlprogram {minimum_os}",
    )
