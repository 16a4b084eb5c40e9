"""Does a written ONNX model hold the checkpoint's own numbers? Read by onnx's own reader, every layer and the table, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from s2p_converters.targets.executorch.qnn.layers import NARROW, StoredWeight
from s2p_converters.targets.executorch.qnn.onnx_graph import read_initializers
from s2p_runtime.errors import CheckFailed

STEP_TABLE = "step_table"
"""Name of the step table in a model."""


def check_stored(path: Path, weights: Mapping[str, StoredWeight], table: NDArray[np.float32] | None) -> None:
    """Compare a model with what it was made of.

    Args:
        weights: of the quantized layers that it has.
        table: its step table [T, N]; None: it has none.

    Raises:
        CheckFailed: a weight, a channel scale, a bias or the table is another; names the first.
    """
    found = read_initializers(path)
    for name, weight in weights.items():
        layer = weight.layer
        kind = TensorProto.INT4 if weight.bits == NARROW else TensorProto.INT8
        stored = found.get(f"{name}.weight")
        if stored is None or stored.data_type != kind or not _equal(stored, weight.integers):
            raise _other(path, f"the weights of {name}")
        if not _equal(found.get(f"{name}.weight_scale"), weight.scale):
            raise _other(path, f"the channel scales of {name}")
        if layer.bias is not None and not _equal(found.get(f"{name}.bias"), layer.bias):
            raise _other(path, f"the bias of {name}")
    if table is not None and not _equal(found.get(STEP_TABLE), table):
        raise _other(path, "the step table")


def _equal(stored: Any, wanted: NDArray[Any]) -> bool:
    if stored is None:
        return False
    values = numpy_helper.to_array(stored).reshape(-1)
    return bool(np.array_equal(values.astype(np.float64), wanted.reshape(-1).astype(np.float64)))


def _other(path: Path, what: str) -> CheckFailed:
    return CheckFailed(f"{what} in {path.name} are not the checkpoint's", "please report the model and the options")
