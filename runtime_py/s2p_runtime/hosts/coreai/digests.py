"""Digests of a Core AI bundle's constants.

Golden runs exercise a program with a few inputs; a changed row of a table that no golden prompt uses would pass. So the SHA-256 of
each constant, taken when the bundle was made, is compared as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.bundle import Bundle
from s2p_runtime.component import Component
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.coreai.engine import Engine
from s2p_runtime.tensors import read_tensors, write_tensors

DIGESTS_FILE = "golden/constants.safetensors"


def constant_digests(folder: Path, components: Mapping[str, Component]) -> dict[str, NDArray[np.uint8]]:
    """``component/function/constant`` -> uint8 [32].

    Raises:
        S2PError: a program is unreadable.
    """
    engine = Engine()
    found: dict[str, NDArray[np.uint8]] = {}
    try:
        for name, component in components.items():
            answer, arrays = engine.ask(component.path, {"do": "digests", "path": str(folder / component.path)})
            found |= {f"{name}/{key}": array for key, array in zip(answer["names"], arrays, strict=True)}
    finally:
        engine.close()
    return found


def write_digests(folder: Path, components: Mapping[str, Component]) -> None:
    """Write the digests of a bundle that is being made."""
    write_tensors(folder / DIGESTS_FILE, dict(constant_digests(folder, components)))


def changed_constants(bundle: Bundle) -> tuple[str, ...]:
    """Names of constants that differ from the recorded ones, or that came or went.

    Raises:
        S2PError: the record is missing, or a program is unreadable.
    """
    if DIGESTS_FILE not in bundle.manifest.files:
        raise S2PError(f"{bundle.folder.name} has no {DIGESTS_FILE}", "convert the checkpoint again")
    recorded, found = read_tensors(bundle.path(DIGESTS_FILE)), constant_digests(bundle.folder, bundle.manifest.components)
    both = set(recorded) & set(found)
    different = {name for name in both if not np.array_equal(recorded[name], found[name])}
    return tuple(sorted((set(recorded) ^ set(found)) | different))


def constant_bytes(bundle: Bundle) -> dict[str, dict[str, tuple[int, int]]]:
    """Component -> element type -> number of constants and their bytes, the largest first.

    Raises:
        S2PError: a program is unreadable.
    """
    engine = Engine()
    found: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        for name, component in bundle.manifest.components.items():
            answer, _ = engine.ask(component.path, {"do": "kinds", "path": str(bundle.folder / component.path)})
            kinds = {kind: (count, size) for kind, count, size in answer["kinds"]}
            found[name] = dict(sorted(kinds.items(), key=lambda item: -item[1][1]))
    finally:
        engine.close()
    return found
