"""Every program of a bundle: the U-Net's is lowered in this process, the others here too or, where there is room, beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.beside import Beside, room_beside
from s2p_converters.targets.float_components import (
    FloatComponent,
    decoder_component,
    encoder_component,
    prompt_components,
)
from s2p_converters.targets.kept_programs import lower_and_keep, take
from s2p_converters.targets.options import TargetOptions
from s2p_converters.targets.protocol import ConvertedUNet, LatentShapes
from s2p_converters.targets.task import Task
from s2p_runtime.component import Component
from s2p_runtime.progress import Progress

FloatParts = Mapping[str, Mapping[str, FloatComponent]]
"""The components around the U-Net: name -> method -> component. Those of the VAE have a method for each size."""


@dataclass(frozen=True)
class Lowered:
    """The programs of a bundle: the U-Net's, and the others by name."""

    unet: ConvertedUNet
    others: dict[str, Component]


def float_parts(checkpoint: Checkpoint, shapes: LatentShapes, options: TargetOptions) -> dict[str, dict[str, FloatComponent]]:
    """The components around the U-Net that these options ask for, in the order in which a bundle lists them."""
    own = next(iter(shapes))
    text, *rest = prompt_components(checkpoint)
    makers = (decoder_component, *((encoder_component,) if options.image_to_image else ()))
    vae = [{method: make(checkpoint, latents) for method, latents in shapes.items()} for make in makers]
    return {part[own].name: part for part in ({own: text}, *vae, *({own: component} for component in rest))}


def lower_all(task: Task, parts: FloatParts, progress: Progress) -> Lowered:
    """Write every program.

    Args:
        parts: see :func:`float_parts`.

    Raises:
        S2PError: a component cannot be lowered.
        CheckFailed: a file does not hold what it should.
    """
    titles = {name: next(iter(methods.values())).title for name, methods in parts.items()}
    others: dict[str, Component] = {}
    for name, methods in parts.items():
        if (earlier := take(task, methods)) is not None:
            with progress.stage(titles[name], 1) as advance:
                others[name] = earlier
                advance("from an earlier conversion")
    missing = [name for name in parts if name not in others]

    def lower_here(name: str) -> None:
        with progress.stage(titles[name], 1) as advance:
            others[name] = lower_and_keep(task, parts[name])
            advance()

    if missing and room_beside(task):
        with Beside(task, missing) as beside:
            unet = _lower_unet(task, progress)
            while (another := beside.another()) is not None:
                lower_here(another)
            for name in [name for name in missing if name not in others]:
                with progress.stage(titles[name], 1) as advance:
                    found = beside.wait(name)
                    advance("while the others were lowered" if found is not None else "not made beside the others")
                if found is None:
                    lower_here(name)
                else:
                    others[name] = found
    else:
        for name in missing:
            lower_here(name)
        unet = _lower_unet(task, progress)
    return Lowered(unet, {name: others[name] for name in parts})


def _lower_unet(task: Task, progress: Progress) -> ConvertedUNet:
    with progress.stage("U-Net", 1) as advance:
        if task.options.chunks > 1:
            unet = task.target.lower_chunks(task.checkpoint, task.options, task.folder)
        else:
            unet = task.target.lower_unet(task.checkpoint, task.options, task.folder, task.shapes)
        advance()
    return unet
