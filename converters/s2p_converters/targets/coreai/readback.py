"""Does a written program hold the checkpoint's own numbers? Read by Apple's bindings, every layer and every table, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s2p_converters.targets.coreai.weights import EmittedWeight, packed
from s2p_runtime.errors import CheckFailed
from s2p_runtime.hosts.coreai.constants import StoredConstant, read_constants


def check_stored(path: Path, weights: Mapping[str, EmittedWeight], table: NDArray[np.float32] | None, half: bool) -> None:
    """Compare a program with what it was made of.

    Args:
        weights: of the quantized layers that it has.
        table: its step table [T, N]; None: it has none.

    Raises:
        CheckFailed: a weight, a channel scale or the table is another; names the first.
    """
    found = {one.name: one for one in read_constants(path) if one.name is not None}
    kind = np.float16 if half else np.float32
    for name, weight in weights.items():
        element = f"{'ui' if weight.form == 'palette' else 'si'}{weight.bits}"
        stored = found.get(f"{name}.weight")
        if stored is None or stored.kind != element or not np.array_equal(stored.data, packed(weight.stored, weight.bits)):
            raise _other(path, f"the weights of {name}")
        if not _equal(found.get(f"{name}.weight_scale"), weight.factor.astype(kind)):
            raise _other(path, f"the channel scales of {name}")
    if table is not None and not _equal(found.get("step_table"), table.astype(kind)):
        raise _other(path, "the step table")


def _equal(stored: StoredConstant | None, wanted: NDArray[np.floating]) -> bool:
    # A constant of one number throughout has no name in the file; what it is shows when the program runs.
    if stored is None:
        return bool(wanted.size) and bool((wanted == wanted.reshape(-1)[0]).all())
    return np.array_equal(stored.values.reshape(-1), wanted.reshape(-1))


def _other(path: Path, what: str) -> CheckFailed:
    return CheckFailed(f"{what} in {path.name} are not the checkpoint's", "please report the model and the options")
