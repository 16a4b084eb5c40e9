"""Writes .pte programs as components of a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from s2p_converters.targets.executorch.partitioned import lower_methods
from s2p_converters.targets.executorch.protocol import Partitioned
from s2p_converters.targets.executorch.pte import delegates_of
from s2p_converters.targets.float_components import FloatComponent
from s2p_converters.targets.ports import example
from s2p_runtime.component import Component, TensorSpec
from s2p_runtime.errors import CheckFailed


def write_program(
    path: Path, data: bytes, backend: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Component:
    """Write a .pte; returns its manifest entry.

    Raises:
        CheckFailed: the backend took nothing of it.
    """
    path.write_bytes(data)
    if not delegates_of(data):
        raise CheckFailed(f"{backend} took nothing of {path.name}", "use `backend=xnnpack`", "backend")
    return Component(
        path=path.name,
        precision="float32",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        backend=f"{backend} executorch {version('executorch')}",
    )


def convert_float(delegate: Partitioned, folder: Path, methods: Mapping[str, FloatComponent]) -> Component:
    """Write a component that stays in float, in float32, with a method for each of ``methods``.

    Raises:
        S2PError: the backend is missing or cannot be lowered to on this machine.
        CheckFailed: it took nothing of the component.
    """
    own = next(iter(methods.values()))
    examples = {method: tuple(map(example, part.inputs)) for method, part in methods.items()}
    data = lower_methods(own.load(), examples, delegate)
    return write_program(folder / f"{own.name}.pte", data, delegate.name, own.inputs, own.outputs)
