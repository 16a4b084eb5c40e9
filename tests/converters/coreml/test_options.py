"""Options and the float16 range."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.coreml.advice import advice, attention_lengths
from s2p_converters.targets.coreml.components import component_entry
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
        ({"compute_unit": "cpu"}, "neural-engine, gpu, all"),
        ({"chip": "A13"}, "A14, A15, A16, A17Pro"),
        ({"attention": "whole"}, "pass `compute_unit=gpu`"),
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


def test_the_unit_decides_the_form_and_attention_overrides_it() -> None:
    forms = {
        unit: (CoreMLOptions(compute_unit=unit).form, CoreMLOptions(compute_unit=unit).attention_form)  # type: ignore[arg-type]
        for unit in ("neural-engine", "gpu", "all")
    }
    split = ("channels-first", "split-chunked")
    assert forms == {"neural-engine": split, "gpu": ("tokens", "whole"), "all": split}
    assert CoreMLOptions(compute_unit="all", attention="whole").form == "tokens"
    assert CoreMLOptions(compute_unit="gpu", attention="split").form == "channels-first"


@pytest.mark.parametrize(("chip", "form"), [("any", "int8"), ("A16", "float16"), ("M3", "float16"), ("A17Pro", "int8")])
def test_a_chip_that_multiplies_int8_no_faster_leaves_activations_in_float(chip: str, form: str) -> None:
    assert CoreMLOptions(chip=chip).activation_form == form  # type: ignore[arg-type]
    assert CoreMLOptions(chip=chip, activations="int8").activation_form == "int8"  # type: ignore[arg-type]


def test_what_a_user_is_told(checkpoint: Checkpoint) -> None:
    four = sum(layer.weight_bits == 4 for layer in checkpoint.layers.values())
    lines = {
        name: advice(checkpoint, CoreMLOptions(**settings))  # type: ignore[arg-type]
        for name, settings in {
            "iOS17": {"minimum_os": "iOS17"},
            "iOS18": {"minimum_os": "iOS18"},
            "A16": {"chip": "A16"},
            "A16, rounded": {"chip": "A16", "activations": "int8", "minimum_os": "iOS18"},
            "GPU": {"minimum_os": "iOS18", "compute_unit": "gpu"},
        }.items()
    }
    # The small model draws 8x8 latents: 64 positions, then 16, which fill half of the engine's row and are not beyond twice.
    assert lines["iOS18"] == lines["GPU"] == ()
    assert len(lines["iOS17"]) == 1 and lines["iOS17"][0].startswith(
        f"{four} of {len(checkpoint.layers)} layers compute in float16"
    )
    assert lines["A16"] == ("activations stay in float16: the Neural Engine of A16 multiplies int8 no faster",)
    assert lines["A16, rounded"][0].endswith("rounded activations bring no speed there")


def test_a_size_that_the_engine_pads_beyond_twice_is_told(checkpoint: Checkpoint) -> None:
    names = attention_lengths(checkpoint, (4, 6))
    assert min(names.values()) < 12
    (line,) = advice(checkpoint, CoreMLOptions(minimum_os="iOS18", size=((24, 16),)))  # type: ignore[arg-type]
    assert line.startswith("at 24x16 the Neural Engine pads the ") and "to 32" in line


@pytest.mark.parametrize(("unit", "in_float32"), [("neural-engine", "all"), ("gpu", "gpu"), ("all", "all")])
def test_the_manifest_names_the_unit_that_a_program_can_use(unit: str, in_float32: str) -> None:
    options = CoreMLOptions(compute_unit=unit)  # type: ignore[arg-type]
    assert component_entry("unet.mlpackage", [], [], options, half=True).compute_unit == unit
    # The Neural Engine has no float32: meant for it alone, such a program would run on the processor.
    assert component_entry("vae_decoder.mlpackage", [], [], options, half=False).compute_unit == in_float32
