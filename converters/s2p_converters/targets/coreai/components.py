"""One request of the process that converts: a program of the bundle, and its manifest entry."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.coreai.floats import float_component, is_half, write_float
from s2p_converters.targets.coreai.options import CoreAIOptions
from s2p_converters.targets.coreai.requests import Request
from s2p_converters.targets.coreai.unet import chunk_ports, unet_layers, unet_ports, write_chunk, write_unet
from s2p_converters.targets.integer_programs import usable_unit
from s2p_runtime.component import Component, TensorSpec


def convert(checkpoint: Checkpoint, request: Request) -> dict[str, Any]:
    """Write the program that is asked for; the answer holds its ``component`` and, of the U-Net, the ``layers``.

    Raises:
        S2PError: it cannot be written.
    """
    options, path = request.asked, request.folder / request.path
    path.parent.mkdir(parents=True, exist_ok=True)
    own = next(iter(request.shapes.values()))
    if request.number is not None:
        _, inputs, outputs = chunk_ports(checkpoint, options)[request.number - 1]
        write_chunk(checkpoint, options, path, request.number)
    elif request.name == "unet":
        ports, output = unet_ports(checkpoint, options, own)
        inputs, outputs = list(ports), [output]
        write_unet(checkpoint, options, path, request.shapes)
    else:
        part = float_component(checkpoint, options, request.name, own)
        write_float(checkpoint, options, request.name, path, request.shapes)
        entry = component_entry(request.path, part.inputs, part.outputs, options, is_half(part, options))
        return {"component": entry.model_dump(mode="json")}
    entry = component_entry(request.path, inputs, outputs, options, options.half)
    layers = [layer.model_dump(mode="json") for layer in unet_layers(checkpoint, options)]
    return {"component": entry.model_dump(mode="json"), "layers": layers}


def component_entry(
    path: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], options: CoreAIOptions, half: bool
) -> Component:
    """A program for the manifest."""
    return Component(
        path=path,
        precision="float16" if half else "float32",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        backend=f"coreai {version('coreai-core')}",
        compute_unit=usable_unit(options.compute_unit, half),
    )
