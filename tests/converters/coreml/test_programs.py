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
from s2p_converters.targets.pointwise import with_pointwise_layers
from s2p_runtime.hosts.coreml.mil import load_program
from s2p_runtime.pictures import relative_error

FLOAT32_CASES = {
    "int8 activations": {},
    "int8 activations on iOS16": {"minimum_os": "iOS16"},
    "float activations": {"activations": "float16"},
    "per-channel palettes": {"minimum_os": "iOS18", "palette": "per-channel"},
    "8 bits as palette": {"minimum_os": "iOS18", "eight_bit": "palette"},
    "for the GPU": {"compute_unit": "gpu"},
    "for the GPU, float activations": {"compute_unit": "gpu", "activations": "float16"},
    "split attention, not in chunks": {"attention": "split"},
    "for every unit": {"compute_unit": "all"},
}

REPEATED = {"for every unit"}
"""Each part of these is in another one."""


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


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(settings, id=name, marks=[pytest.mark.slow] * (name in REPEATED))
        for name, settings in FLOAT32_CASES.items()
    ],
)
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


def test_neither_form_is_farther_from_the_reference_in_float16(checkpoint: Checkpoint, converted: Callable[..., Path]) -> None:
    exact = reference_unet(checkpoint, CHECKPOINT_CONSTANTS)
    programs = {unit: load_program(converted(compute_unit=unit)) for unit in ("neural-engine", "gpu")}
    squares = dict.fromkeys(programs, 0.0)
    for seed in range(8):
        feeds = inputs(checkpoint, seed % len(checkpoint.manifest.plan.calls)) | {
            "sample": np.random.default_rng(100 + seed).standard_normal((2, 4, 8, 8)).astype(np.float32)
        }
        expected = reference(exact, feeds)
        for unit, program in programs.items():
            squares[unit] += float(np.square(program.run(feeds, compute="declared")["noise_pred"] - expected).sum())
    # 1 dB: what the vendors' figures of pictures are quoted to. Both round some hundred operations.
    assert abs(10 * np.log10(squares["neural-engine"] / squares["gpu"])) < 1


def test_chunks_of_queries_change_nothing(checkpoint: Checkpoint, converted: Callable[..., Path], monkeypatch: Any) -> None:
    from s2p_converters.core.graph import channels_first

    # The transformer of the small model has 16 positions; SD v1-4 has 4,096, whose scores are made 512 queries at a time.
    assert channels_first.query_rows(4096, 4096) == channels_first.QUERIES_AT_ONCE == 512
    assert channels_first.query_rows(4096, 77) == 4096
    assert channels_first.query_rows(9216, 9216) == 9216 // 41 + 1  # 768x768: 41 chunks of 225 or fewer
    whole = converted(precision="fp32")
    monkeypatch.setattr(channels_first, "SCORES_AT_ONCE", 5 * 16)
    from s2p_converters.targets.coreml.components import convert_unet

    chunked = whole.parent.parent / "chunked"
    chunked.mkdir()
    package = chunked / convert_unet(checkpoint, CoreMLOptions(precision="fp32"), chunked).components["unet"].path
    feeds = inputs(checkpoint, 1)
    results = [load_program(path).run(feeds, compute="float64")["noise_pred"] for path in (whole, package)]
    assert relative_error(results[1], results[0]) < 1e-12
    kinds = [load_program(path).operation_counts() for path in (whole, package)]
    assert kinds[1]["softmax"] > kinds[0]["softmax"]


def test_no_transposes_between_the_blocks_of_a_transformer(checkpoint: Checkpoint, converted: Callable[..., Path]) -> None:
    """One for the text, one for the keys of each attention, none for states; layer norms are over channels."""
    kinds = load_program(converted()).operation_counts()
    attentions = sum(spec.name.endswith(".to_k") for spec in checkpoint.specs)
    assert kinds["transpose"] == attentions + 1
    assert kinds["linear"] == kinds["matmul"] == 0 and kinds["einsum"] == 2 * kinds["softmax"]
    assert kinds["conv"] == len(checkpoint.specs)


def test_another_step_reads_another_row(checkpoint: Checkpoint, converted: Callable[..., Path]) -> None:
    program = load_program(converted())
    feeds = inputs(checkpoint, 0)
    first = program.run(feeds)["noise_pred"]
    feeds["step"] = np.array([2], np.int32)
    assert relative_error(program.run(feeds)["noise_pred"], first) > 1e-3


def test_linear_layers_of_other_networks_become_convolutions_of_the_same_values() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.Sequential(torch.nn.GELU(), torch.nn.Linear(8, 4, bias=False))
    )
    network = network.double()
    inputs = torch.randn(2, 5, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = [network(x) for x in inputs]
        found = [with_pointwise_layers(network)(x) for x in inputs]
    assert not [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
    for here, there in zip(found, expected, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-13, atol=1e-13)
