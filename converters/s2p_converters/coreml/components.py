"""The three components of a Core ML bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from s2p_converters.checkpoint import Checkpoint, QuantizedLayer
from s2p_converters.coreml.emission import EmittedWeight, WeightTable, constant_name, emitted_weight
from s2p_converters.coreml.layers import CoreMLOperators, check_float16_range
from s2p_converters.coreml.options import CoreMLOptions
from s2p_converters.coreml.package import Port, convert_module
from s2p_converters.float_components import decoder_module, text_encoder_module
from s2p_converters.reference import Constants, exact, load_floats, table_columns, to_float16, to_float32
from s2p_converters.unet import StepTables, StepUNet
from s2p_runtime.bundle import Component, LayerSummary


def program_constants(options: CoreMLOptions) -> Constants:
    """How the emitted program stores real numbers, for :func:`s2p_converters.reference.reference_unet`.

    The entries of a per-channel palette are ``scale * integer`` rounded to the program's precision. All other forms multiply
    exact integers by an exact float16 scale at run time.
    """
    stored = to_float16 if options.half else to_float32

    def weight(layer: QuantizedLayer, value: Tensor) -> Tensor:
        return stored(value) if options.per_channel and emitted_weight(layer, options).is_palette else value

    return Constants(stored, weight, options.quantizes_activations)


def unet_ports(checkpoint: Checkpoint) -> tuple[list[Port], Port]:
    """Inputs and output of the U-Net."""
    latents = checkpoint.manifest.latents
    batch = 2 if checkpoint.manifest.guidance > 1 else 1
    shape = (batch, latents.channels, latents.height, latents.width)
    tokens = checkpoint.manifest.tokenizer.max_length
    inputs = [
        Port("sample", shape),
        Port("step", (1,), "int32"),
        Port("encoder_hidden_states", (batch, tokens, checkpoint.structure.context_dim)),
    ]
    return inputs, Port("noise_pred", (batch, checkpoint.structure.out_channels, latents.height, latents.width))


@dataclass(frozen=True)
class ConvertedUNet:
    """The written U-Net: its manifest entry and how each layer rests."""

    component: Component
    layers: tuple[LayerSummary, ...]


def convert_unet(checkpoint: Checkpoint, options: CoreMLOptions, path: Path) -> ConvertedUNet:
    """Write the quantized U-Net as ``path`` (.mlpackage).

    Raises:
        S2PError: a layer can overflow float16, or the conversion fails.
    """
    if options.half:
        for layer in checkpoint.layers.values():
            check_float16_range(layer, options)
    columns = {name: table.float() for name, table in table_columns(checkpoint, exact, options.quantizes_activations).items()}
    unet = StepUNet(checkpoint.structure, StepTables(columns), CoreMLOperators(checkpoint.layers, options))
    load_floats(unet, checkpoint, exact, skip={f"{name}.weight" for name in checkpoint.layers})
    emitted = {name: emitted_weight(layer, options) for name, layer in checkpoint.layers.items()}
    table = WeightTable({constant_name(name): weight for name, weight in emitted.items()})
    inputs, output = unet_ports(checkpoint)
    convert_module(unet, inputs, output, path, minimum_os=options.minimum_os, half=options.half, weights=table)
    component = _component(path, inputs, output, options.minimum_os, options.half)
    return ConvertedUNet(component, _summaries(checkpoint, emitted, options))


def _summaries(checkpoint: Checkpoint, emitted: dict[str, EmittedWeight], options: CoreMLOptions) -> tuple[LayerSummary, ...]:
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


def convert_text_encoder(checkpoint: Checkpoint, options: CoreMLOptions, path: Path) -> Component:
    """Write the text encoder as ``path`` (.mlpackage)."""
    tokens = checkpoint.manifest.tokenizer.max_length
    source = Port("input_ids", (1, tokens), "int32")
    output = Port("last_hidden_state", (1, tokens, checkpoint.structure.context_dim))
    module = text_encoder_module(checkpoint)
    convert_module(module, [source], output, path, minimum_os=options.minimum_os, half=options.half)
    return _component(path, [source], output, options.minimum_os, options.half)


def convert_vae_decoder(checkpoint: Checkpoint, options: CoreMLOptions, path: Path) -> Component:
    """Write the VAE decoder as ``path`` (.mlpackage)."""
    latents = checkpoint.manifest.latents
    source = Port("latents", (1, latents.channels, latents.height, latents.width))
    module = decoder_module(checkpoint)
    with torch.no_grad():
        shape = tuple(module(source.example()).shape)
    output = Port("image", shape)
    half = options.vae_precision == "fp16"
    convert_module(module, [source], output, path, minimum_os=options.minimum_os, half=half)
    return _component(path, [source], output, options.minimum_os, half)


def _component(path: Path, inputs: list[Port], output: Port, minimum_os: str, half: bool) -> Component:
    return Component(
        path=path.name,
        precision="float16" if half else "float32",
        inputs=tuple(port.spec for port in inputs),
        outputs=(output.spec,),
        backend=f"mlprogram {minimum_os}",
    )
