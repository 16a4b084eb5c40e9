"""Options and the float16 range."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.coreml.layers import FLOAT16_MAX, check_float16_range, weight_shift
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_runtime.errors import S2PError


@pytest.mark.parametrize(
    ("settings", "listed"),
    [
        ({"minimum_os": "iOS15"}, "iOS16, iOS17, iOS18"),
        ({"palette": "per-group"}, "per-tensor, per-channel"),
        ({"eight_bit": "float"}, "linear, palette"),
        ({"activations": "int4"}, "int8, float16"),
        ({"precision": "bf16"}, "fp16, fp32"),
        ({"palette": "per-channel", "minimum_os": "iOS17"}, "pass `minimum_os=iOS18`"),
    ],
)
def test_unknown_choices_list_what_exists(settings: dict[str, str], listed: str) -> None:
    with pytest.raises(S2PError, match=listed):
        CoreMLOptions(**settings)  # type: ignore[arg-type]


def test_overflow_is_an_error_that_names_the_layer(checkpoint: Checkpoint) -> None:
    layer = next(layer for layer in checkpoint.layers.values() if layer.weight_bits == 4)
    check_float16_range(layer, CoreMLOptions())
    width = int(FLOAT16_MAX * 8 / 7) + 8
    wide = dataclasses.replace(layer, stored=np.full((1, width), 7, np.int8), scale=layer.scale[:1])
    with pytest.raises(S2PError, match=layer.spec.name.replace(".", r"\.")):
        check_float16_range(wide, CoreMLOptions())
    huge = dataclasses.replace(layer, activation_scale=np.full_like(layer.activation_scale, 600.0))
    with pytest.raises(S2PError, match="activation scale"):
        check_float16_range(huge, CoreMLOptions())


def test_float_activations_shrink_the_entries_until_the_largest_sum_fits(checkpoint: Checkpoint) -> None:
    options = CoreMLOptions(activations="float16")
    for layer in checkpoint.layers.values():
        sums = np.abs(layer.integers.reshape(layer.integers.shape[0], -1).astype(np.float64)).sum(axis=1)
        assert sums.max() * 2.0 ** -weight_shift(layer, options) * 2047 <= FLOAT16_MAX
