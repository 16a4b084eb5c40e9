"""A U-Net that is several programs: which they are, and one call of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from s2p_runtime.component import Component, TensorSpec

UNET_INPUTS = ("sample", "step", "timestep", "encoder_hidden_states", "time_table")
"""What comes from outside of the U-Net; every other input of a chunk is an output of an earlier one."""
UNET_OUTPUT = "noise_pred"


def unet_interface(programs: Mapping[str, Component]) -> Component:
    """The U-Net as one entry, whether it is one program or several in order (``path`` and ``precision`` are the first one's)."""
    parts = list(programs.values())
    own = {port.name: port for part in parts for port in part.inputs if port.name in UNET_INPUTS}
    inputs = tuple(own[name] for name in UNET_INPUTS if name in own)
    return parts[0] if len(parts) == 1 else parts[0].model_copy(update={"inputs": inputs, "outputs": parts[-1].outputs})


def check_chunks(chunks: Sequence[str], components: Mapping[str, Component]) -> None:
    """Whether every input of a chunk is there when its turn comes, with the same type and shape.

    Args:
        chunks: names of the components that are the U-Net, in order.
        components: all of the bundle.

    Raises:
        ValueError: it is not, or a chunk is missing.
    """
    if len(chunks) < 2 or len(set(chunks)) != len(chunks):
        raise ValueError("chunks: must be several, each once")
    if "unet" in components:
        raise ValueError("chunks: such a bundle has no component unet")
    known: dict[str, TensorSpec] = {}
    for name in chunks:
        if name not in components:
            raise ValueError(f"chunks: there is no component {name}")
        for port in components[name].inputs:
            if port.name not in known and port.name not in UNET_INPUTS:
                raise ValueError(f"chunks: {name} needs {port.name}, which no program before it gives")
            if known.setdefault(port.name, port) != port:
                raise ValueError(f"chunks: {name} takes {port.name} in another type or shape")
        for port in components[name].outputs:
            if port.name in known:
                raise ValueError(f"chunks: {name} gives {port.name} again")
            known[port.name] = port
    if [port.name for port in components[chunks[-1]].outputs] != [UNET_OUTPUT]:
        raise ValueError(f"chunks: the last does not give {UNET_OUTPUT} alone")


def run_programs(
    programs: Mapping[str, Component],
    inputs: Mapping[str, NDArray[Any]],
    run: Callable[[str, dict[str, NDArray[Any]]], Mapping[str, NDArray[Any]]],
) -> NDArray[Any]:
    """One call of a U-Net of one or several programs. A tensor between programs is kept until the last one that takes it has run.

    Args:
        programs: the U-Net's components in the order in which they run.
        inputs: of the whole U-Net, by name.
        run: (component, its inputs in the manifest's order) -> its outputs by name.
    """
    known = dict(inputs)
    last_use = {port.name: index for index, program in enumerate(programs.values()) for port in program.inputs}
    for index, (name, program) in enumerate(programs.items()):
        feeds = {port.name: known[port.name] for port in program.inputs}
        known = {key: value for key, value in known.items() if last_use.get(key, index) > index}
        known |= run(name, feeds)
    return known[UNET_OUTPUT]
