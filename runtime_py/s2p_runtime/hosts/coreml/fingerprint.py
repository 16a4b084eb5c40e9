"""Numerical fingerprints of a Core ML bundle's constants.

Golden runs exercise a program with a few inputs; a changed row of an embedding table that no golden prompt uses would pass.
So each constant's sum and a position-weighted sum, taken when the bundle was made, are compared as well.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.bundle import Bundle, BundleManifest
from s2p_runtime.errors import S2PError
from s2p_runtime.tensors import read_tensors, write_tensors

if TYPE_CHECKING:
    from s2p_runtime.hosts.coreml.mil import Weight

FINGERPRINT_FILE = "golden/constants.safetensors"
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
_BLOCK = 1 << 16
"""Numbers that are summed at a time."""
_LARGEST = math.ldexp(1.0, 1000)
"""Numbers beyond this, and infinities, are left to ``math.fsum``, which knows what becomes of them."""


def moments(values: NDArray[Any]) -> NDArray[np.float64]:
    """``[sum v_i, sum v_i (1 + frac(i * golden ratio))]`` in double, i counting in C order; correctly rounded sums."""
    flat = values.reshape(-1)
    plain: list[float] = []
    weighted: list[float] = []
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK].astype(np.float64)
        turns = np.arange(start, start + block.size, dtype=np.float64) * _GOLDEN_RATIO
        plain += exact_parts(block)
        weighted += exact_parts(block * (1.0 + (turns - np.floor(turns))))
    return np.array([math.fsum(plain), math.fsum(weighted)])


def exact_parts(values: NDArray[np.float64]) -> list[float]:
    """A few numbers with exactly the sum of these, found in vector operations; ``math.fsum`` of all takes ten times as long.

    Adding a large power of two and taking it away again cuts each number at the same bit: what is above adds up without any
    rounding, what is below goes through the same again. Source: ExtractVector, algorithm 3.3 of Rump, Ogita and Oishi, "Accurate
    floating-point summation part I", SIAM Journal on Scientific Computing 31 (2008).

    Args:
        values: at most 2^16 numbers.
    """
    rest = values.copy()
    parts: list[float] = []
    while True:
        largest = float(max(rest.max(initial=0.0), -rest.min(initial=0.0)))
        if largest == 0.0:
            return parts
        if not largest < _LARGEST:
            return [*parts, *rest.tolist()]
        # All lie below 2^e; cut at 2^(e - 36), the sum of 2^16 of them takes no more than 52 bits.
        cut = math.ldexp(1.0, math.frexp(largest)[1] + 17)
        above = (rest + cut) - cut
        parts.append(float(above.sum()))
        rest -= above


def constant_moments(folder: Path, manifest_components: dict[str, str]) -> dict[str, NDArray[np.float64]]:
    """Moments of every tensor constant of .mlpackage components, by ``component/constant``; of functions other than ``main`` by
    ``component@function/constant``.

    Args:
        manifest_components: component -> path of its package below ``folder``.
    """
    from s2p_runtime.hosts.coreml.mil import load_program

    result = {}
    for component, path in manifest_components.items():
        program = load_program(folder / path)
        # Functions share most of their weights; summing is slow, hashing is not.
        known: dict[bytes, NDArray[np.float64]] = {}
        for function in program.functions:
            prefix = component if function == "main" else f"{component}@{function}"
            for weight in program.weights(function):
                digest = _digest(weight)
                if digest not in known:
                    dense = weight.dense(exact=True)
                    known[digest] = moments(dense) if dense.dtype.kind in "fiu" and dense.size else np.zeros(0)
                if known[digest].size:
                    result[f"{prefix}/{weight.name}"] = known[digest]
    return result


def _digest(weight: Weight) -> bytes:
    """Of everything that a weight's dense value depends on."""
    digest = hashlib.sha256(f"{weight.form} {weight.type}".encode())
    for name, part in sorted(weight.stored().items()):
        digest.update(f"{name} {part.dtype} {part.shape}".encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.digest()


def write_fingerprint(folder: Path, components: dict[str, str]) -> None:
    """Write the fingerprint file of a bundle that is being made."""
    write_tensors(folder / FINGERPRINT_FILE, constant_moments(folder, components))


def package_paths(manifest: BundleManifest) -> dict[str, str]:
    """Component -> path."""
    return {name: component.path for name, component in manifest.components.items()}


def check_fingerprint(bundle: Bundle) -> list[str]:
    """Names of constants whose moments differ from the recorded ones, or that came or went.

    Raises:
        S2PError: the fingerprint file is unreadable.
    """
    recorded = read_tensors(bundle.path(FINGERPRINT_FILE))
    found = constant_moments(bundle.folder, package_paths(bundle.manifest))
    if any(value.shape != (2,) for value in recorded.values()):
        raise S2PError(f"{FINGERPRINT_FILE} of {bundle.folder.name} is malformed", "convert the checkpoint again")
    names = sorted(set(recorded) ^ set(found))
    # fsum is correctly rounded, so equal constants give equal moments on every machine.
    return names + [name for name in sorted(set(recorded) & set(found)) if not np.array_equal(recorded[name], found[name])]
