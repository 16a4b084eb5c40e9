"""The programs of a Core ML bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from s2p_converters.core.checkpoint import Checkpoint, QuantizedLayer
from s2p_converters.core.graph import StepUNet
from s2p_converters.core.reference import Constants, exact, load_floats, step_tables, table_columns, to_float16, to_float32
from s2p_converters.targets.coreml.apple import FloatIdsTextEncoder, TimestepUNet, timestep_inputs
from s2p_converters.targets.coreml.channels_first import ChannelsFirstOperators
from s2p_converters.targets.coreml.emission import WeightTable, constant_name, emitted_weight
from s2p_converters.targets.coreml.functions import merge_functions
from s2p_converters.targets.coreml.layers import CoreMLOperators, check_float16_range
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_converters.targets.coreml.package import convert_module
from s2p_converters.targets.float_components import FloatComponent
from s2p_converters.targets.integer_programs import layer_summaries, program_layers, usable_unit
from s2p_converters.targets.interface import unet_inputs, unet_output
from s2p_converters.targets.pointwise import with_pointwise_layers
from s2p_converters.targets.ports import own_latents
from s2p_converters.targets.protocol import ConvertedUNet, LatentShapes
from s2p_runtime.component import Component, TensorSpec
from s2p_runtime.hosts.coreml import HOST

Form = TypeVar("Form")
"""What differs between the functions of one program."""


def program_constants(options: CoreMLOptions) -> Constants:
    """How the emitted program stores real numbers, for :func:`s2p_converters.core.reference.reference_unet`.

    The entries of a per-channel palette of floats are ``scale * integer`` rounded to the program's precision. All other forms
    multiply exact integers by an exact float16 scale.
    """
    stored = to_float16 if options.half else to_float32

    def weight(layer: QuantizedLayer, value: Tensor) -> Tensor:
        emitted = emitted_weight(layer, options)
        return stored(value) if options.per_channel and emitted.is_palette and not emitted.integer_table else value

    return Constants(stored, weight, options.quantizes_activations)


def unet_ports(
    checkpoint: Checkpoint, options: CoreMLOptions, latents: tuple[int, int] | None = None
) -> tuple[tuple[TensorSpec, ...], TensorSpec]:
    """Inputs and output of the U-Net in the chosen layout, for latents of a height and width (None: the checkpoint's own)."""
    inputs = unet_inputs(checkpoint, "int32", latents)
    return timestep_inputs(inputs) if options.layout == "apple" else inputs, unet_output(checkpoint, latents)


def unet_module(checkpoint: Checkpoint, options: CoreMLOptions) -> StepUNet:
    """The U-Net as it is exported.

    Raises:
        S2PError: a layer can overflow float16.
    """
    if options.half:
        for layer in checkpoint.layers.values():
            check_float16_range(layer, options)
    columns = {name: table.float() for name, table in table_columns(checkpoint, exact, options.quantizes_activations).items()}
    kind = ChannelsFirstOperators if options.form == "channels-first" else CoreMLOperators
    tables, operators = step_tables(columns, checkpoint), kind(program_layers(checkpoint, options.form), options)
    if options.layout == "apple":
        unet: StepUNet = TimestepUNet(checkpoint.structure, tables, operators, checkpoint.manifest.plan.timesteps)
    else:
        unet = StepUNet(checkpoint.structure, tables, operators)
    load_floats(unet, checkpoint, exact, skip={f"{name}.weight" for name in checkpoint.layers})
    return unet


def convert_unet(
    checkpoint: Checkpoint, options: CoreMLOptions, folder: Path, shapes: LatentShapes | None = None
) -> ConvertedUNet:
    """Write the quantized U-Net into a bundle's folder, a function for each shape (None: the checkpoint's own).

    Raises:
        S2PError: a layer can overflow float16, or the conversion fails.
    """
    unet = unet_module(checkpoint, options)
    emitted = {name: emitted_weight(layer, options) for name, layer in program_layers(checkpoint, options.form).items()}
    shapes = shapes or {HOST.default_method: own_latents(checkpoint)}

    def write(latents: tuple[int, int], path: Path) -> None:
        table = WeightTable({constant_name(name): weight for name, weight in emitted.items()})
        inputs, output = unet_ports(checkpoint, options, latents)
        convert_module(unet, inputs, [output], path, minimum_os=options.minimum_os, half=options.half, weights=table)

    path = options.packages["unet"]
    _write_functions(shapes, folder / path, write)
    inputs, output = unet_ports(checkpoint, options, next(iter(shapes.values())))
    component = component_entry(path, inputs, [output], options, options.half)
    return ConvertedUNet({"unet": component}, layer_summaries(checkpoint, emitted, options.half, options.quantizes_activations))


def convert_float(options: CoreMLOptions, folder: Path, methods: Mapping[str, FloatComponent]) -> Component:
    """Write a component that stays in float into a bundle's folder, a function for each of ``methods``.

    Raises:
        S2PError: the conversion fails.
    """
    forms = {function: _in_layout(part, options) for function, part in methods.items()}
    own = next(iter(forms.values()))
    precision = options.vae_precision if own.latents is not None else options.precision
    half = precision == "fp16" and not own.needs_float32
    module, path = _module_in_layout(own, options, half), options.packages[own.name]

    def write(part: FloatComponent, place: Path) -> None:
        convert_module(module, part.inputs, part.outputs, place, minimum_os=options.minimum_os, half=half)

    _write_functions(forms, folder / path, write)
    return component_entry(path, own.inputs, own.outputs, options, half)


_APPLE_INPUTS = {"text_encoder": {"dtype": "float32"}, "vae_decoder": {"name": "z"}, "vae_encoder": {"name": "x"}}
"""What Apple's pipeline wants otherwise of a component's only input."""
_APPLE_OUTPUTS = {"vae_encoder": {"name": "latent"}}
"""Likewise of its only output."""


def _in_layout(part: FloatComponent, options: CoreMLOptions) -> FloatComponent:
    if options.layout != "apple":
        return part
    (source,), (result,) = part.inputs, part.outputs
    return replace(
        part,
        inputs=(source.model_copy(update=_APPLE_INPUTS[part.name]),),
        outputs=(result.model_copy(update=_APPLE_OUTPUTS.get(part.name, {})),),
    )


def _module_in_layout(part: FloatComponent, options: CoreMLOptions, half: bool) -> nn.Module:
    module = part.load()
    if half and options.form == "channels-first":
        module = with_pointwise_layers(module)
    takes_floats = options.layout == "apple" and part.name == "text_encoder"
    return FloatIdsTextEncoder(module) if takes_floats else module


def _write_functions(forms: Mapping[str, Form], path: Path, write: Callable[[Form, Path], None]) -> None:
    """One program by ``write`` for a single form; for several a function each, sharing their weights."""
    if len(forms) == 1:
        write(next(iter(forms.values())), path)
        return
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        packages = {function: Path(scratch) / f"{function}.mlpackage" for function in forms}
        for function, form in forms.items():
            write(form, packages[function])
        merge_functions(packages, path)


def component_entry(
    path: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], options: CoreMLOptions, half: bool
) -> Component:
    """A program for the manifest."""
    return Component(
        path=path,
        precision="float16" if half else "float32",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        backend=f"mlprogram {options.minimum_os}",
        compute_unit=usable_unit(options.compute_unit, half),
    )
