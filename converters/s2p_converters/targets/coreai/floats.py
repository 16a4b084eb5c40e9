"""The components around the U-Net as Core AI programs, by Apple's converter for torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from coreai_torch import TorchConverter, get_decomp_table
from torch import Tensor, nn

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.coreai.builder import save_program
from s2p_converters.targets.coreai.options import CoreAIOptions
from s2p_converters.targets.float_components import VAE_PARTS, FloatComponent, prompt_components, vae_part
from s2p_converters.targets.pointwise import with_pointwise_layers
from s2p_converters.targets.ports import example
from s2p_converters.targets.protocol import LatentShapes
from s2p_runtime.quiet import quiet_import


def is_half(part: FloatComponent, options: CoreAIOptions) -> bool:
    """Whether a component computes in float16."""
    precision = options.vae_precision if part.latents is not None else options.precision
    return precision == "fp16" and not part.needs_float32


def float_component(checkpoint: Checkpoint, options: CoreAIOptions, name: str, latents: tuple[int, int]) -> FloatComponent:
    """A component by its name; ``latents`` is their size of a part of the VAE. What the decoder takes the package of Apple calls
    ``z``."""
    if name in VAE_PARTS:
        part = vae_part(checkpoint, name, latents)
        if name != "vae_decoder" or options.layout != "coreai-models":
            return part
        (source,) = part.inputs
        return replace(part, inputs=(source.model_copy(update={"name": "z"}),))
    return next(part for part in prompt_components(checkpoint) if part.name == name)


class _Cast(nn.Module):
    """A network in float16 behind an interface of float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        found = self.network(*(value.half() if value.is_floating_point() else value for value in values))
        return tuple(result.float() for result in (found if isinstance(found, tuple) else (found,)))


@torch.no_grad()
def write_float(checkpoint: Checkpoint, options: CoreAIOptions, name: str, path: Path, shapes: LatentShapes) -> None:
    """Write a component as one program with a function for each size of latents."""
    parts = {method: float_component(checkpoint, options, name, latents) for method, latents in shapes.items()}
    own = next(iter(parts.values()))
    half = is_half(own, options)
    module = with_repeated_pixels(own.load())
    if half:
        module = _Cast((with_pointwise_layers(module) if options.form == "channels-first" else module).half())
    with quiet_import():
        converter = TorchConverter(mode=TorchConverter.Mode.RELEASE)
        for method, part in parts.items():
            _add(converter, module, method, part)
        program = converter.to_coreai()
        save_program(program, path)


def _add(converter: TorchConverter, module: nn.Module, method: str, part: FloatComponent) -> None:
    inputs = tuple(example(port) for port in part.inputs)
    exported = torch.export.export(module.eval(), inputs, strict=False).run_decompositions(get_decomp_table())
    names: Mapping[str, list[str]] = {
        "input_names": [port.name for port in part.inputs],
        "output_names": [port.name for port in part.outputs],
    }
    converter.add_exported_program(exported, entrypoint_name=method, **names)


class _RepeatedPixels(nn.Module):
    """A diffusers upsampler by two that repeats pixels. Apple's own exporter does the same: ``interpolate`` leaves the GPU
    (apple/coreai-models, ``diffusion/components.py``)."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, hidden: Tensor, *args: object, **kwargs: object) -> Tensor:
        batch, channels, height, width = hidden.shape
        columns = torch.stack([hidden, hidden], dim=4).reshape(batch, channels, height, 2 * width)
        rows = torch.stack([columns, columns], dim=3).reshape(batch, channels, 2 * height, 2 * width)
        out: Tensor = self.conv(rows)
        return out


def with_repeated_pixels(module: nn.Module) -> nn.Module:
    """The module itself, diffusers' upsamplers by two in it replaced."""
    with quiet_import():
        from diffusers.models.upsampling import Upsample2D

    for name, child in module.named_children():
        if isinstance(child, Upsample2D) and child.use_conv and child.interpolate and child.norm is None:
            setattr(module, name, _RepeatedPixels(child.conv))
        else:
            with_repeated_pixels(child)
    return module
