"""Emitted programs in the reference interpreter against torch on the same integers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.reference import CHECKPOINT_CONSTANTS, reference_unet
from s2p_converters.targets.coreml.components import program_constants
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_runtime.hosts.coreml.mil import load_program
from s2p_runtime.pictures import relative_error

FLOAT32_CASES = {
    "int8 activations": {},
    "int8 activations on iOS16": {"minimum_os": "iOS16"},
    "float activations": {"activations": "float16"},
    "per-channel palettes": {"minimum_os": "iOS18", "palette": "per-channel"},
    "8 bits as palette": {"minimum_os": "iOS18", "eight_bit": "palette"},
}


def inputs(checkpoint: Checkpoint, call: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(call)
    tokens = checkpoint.manifest.tokenizer.max_length
    return {
        "sample": random.standard_normal((2, 4, 8, 8)).astype(np.float32),
        "step": np.array([call], np.int32),
        "encoder_hidden_states": random.standard_normal((2, tokens, 128)).astype(np.float32),
    }


@torch.no_grad()
def reference(unet: torch.nn.Module, feeds: dict[str, np.ndarray]) -> np.ndarray:
    output: np.ndarray = unet(
        torch.from_numpy(feeds["sample"]).double(),
        torch.from_numpy(feeds["step"]).long(),
        torch.from_numpy(feeds["encoder_hidden_states"]).double(),
    ).numpy()
    return output


@pytest.mark.parametrize("settings", FLOAT32_CASES.values(), ids=FLOAT32_CASES.keys())
def test_float32_build_equals_the_reference_at_every_call(
    checkpoint: Checkpoint, settings: dict[str, Any], converted: Callable[..., Path]
) -> None:
    options = CoreMLOptions(precision="fp32", **settings)
    program = load_program(converted(precision="fp32", **settings))
    unet = reference_unet(checkpoint, program_constants(options))
    for call in range(len(checkpoint.manifest.plan.calls)):
        feeds = inputs(checkpoint, call)
        result = program.run(feeds, compute="float64")["noise_pred"]
        # Both sides are float64 with the same float32 constants, so no activation rounds differently.
        assert relative_error(result, reference(unet, feeds)) < 1e-9


@pytest.mark.parametrize("palette", ["per-tensor", "per-channel"])
def test_float16_build_equals_its_reference_and_stays_near_the_checkpoint(
    checkpoint: Checkpoint, palette: str, converted: Callable[..., Path]
) -> None:
    options = CoreMLOptions(minimum_os="iOS18", palette=palette)  # type: ignore[arg-type]
    program = load_program(converted(minimum_os="iOS18", palette=palette))
    unet = reference_unet(checkpoint, program_constants(options))
    feeds = inputs(checkpoint, 1)
    assert relative_error(program.run(feeds, compute="float64")["noise_pred"], reference(unet, feeds)) < 1e-9
    declared = program.run(feeds, compute="declared")["noise_pred"]
    exact = reference(reference_unet(checkpoint, CHECKPOINT_CONSTANTS), feeds)
    # fp16 rounds each of some hundred operations by up to 2^-11 (4.9e-4), and flips some activation roundings; errors of that
    # size add up like sqrt(100). An emission bug (a wrong table row, scale or layer) is of order 1.
    assert relative_error(declared, exact) < 100**0.5 * 2.0**-11 * 10


def test_another_step_reads_another_row(checkpoint: Checkpoint, converted: Callable[..., Path]) -> None:
    program = load_program(converted())
    feeds = inputs(checkpoint, 0)
    first = program.run(feeds)["noise_pred"]
    feeds["step"] = np.array([2], np.int32)
    assert relative_error(program.run(feeds)["noise_pred"], first) > 1e-3
