"""Whole U-Nets in Apple's runtime: the two forms, float16, chunks, sizes and Stable Diffusion XL's time table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.coreai.options import CoreAIOptions
from s2p_converters.targets.coreai.target import TARGET
from s2p_converters.targets.golden import reference_call
from s2p_runtime.bundle import open_bundle
from s2p_runtime.engines import open_backend
from s2p_runtime.hosts.coreai.engine import Engine
from s2p_runtime.noise import gaussian
from s2p_runtime.pictures import relative_error
from s2p_runtime.verify import verify

Convert = Callable[..., Path]
FLIPS = 5e-2
"""What flipped roundings of activations may move an output by, see the host's tolerance."""


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("unit", ["gpu", "neural-engine"])
def test_both_forms_are_the_reference(
    unit: str, precision: str, checkpoint: Checkpoint, write_unet: Callable[..., Path]
) -> None:
    options = CoreAIOptions(precision=precision, compute_unit=unit)
    path = write_unet(checkpoint, precision=precision, compute_unit=unit)
    shape, tokens = checkpoint.manifest.latents.shape, checkpoint.manifest.tokenizer.max_length
    sample, embeddings = gaussian(5, (2, *shape[1:])), gaussian(6, (2, tokens, checkpoint.structure.context_dim))
    engine = Engine()
    engine.load("unet", path, "main", wide=precision == "fp16")
    feeds = {"sample": sample, "step": np.array([1], np.int32), "encoder_hidden_states": embeddings}
    found = engine.run("unet", "main", feeds)["noise_pred"]
    engine.close()
    want = reference_call(TARGET.reference(checkpoint, options), sample, 1, {"encoder_hidden_states": embeddings})
    assert relative_error(found, want) <= FLIPS


def test_float16_as_it_is(checkpoint: Checkpoint, write_unet: Callable[..., Path]) -> None:
    """The runtime's own float16 beside the wide form that checks run: they differ by roundings to 2^-11 and what these flip."""
    path = write_unet(checkpoint)
    shape, tokens = checkpoint.manifest.latents.shape, checkpoint.manifest.tokenizer.max_length
    feeds = {
        "sample": gaussian(5, (2, *shape[1:])),
        "step": np.array([1], np.int32),
        "encoder_hidden_states": gaussian(6, (2, tokens, checkpoint.structure.context_dim)),
    }
    outputs = []
    for wide in (False, True):
        engine = Engine()
        engine.load("unet", path, "main", wide=wide)
        outputs.append(engine.run("unet", "main", feeds)["noise_pred"])
        engine.close()
    assert relative_error(*outputs) <= 2 * FLIPS


def test_sizes_share_their_weights(checkpoint: Checkpoint, convert: Convert, coreai_bundle: Path, tmp_path: Path) -> None:
    both = open_bundle(convert(checkpoint, CoreAIOptions(precision="fp32", size=((48, 64),)), tmp_path / "both"))
    assert [size.title for size in both.manifest.sizes] == ["32x32", "48x64"]
    assert verify(both).ok
    one, two = (open_bundle(folder).folder / "unet.aimodel" / "main.mlirb" for folder in (coreai_bundle, tmp_path / "both"))
    weights = sum(layer.bytes for layer in both.manifest.quantization.layers)
    # A second graph and no second copy of the weights.
    assert two.stat().st_size - one.stat().st_size < weights // 2 + 300_000


def test_chunks_are_the_whole(checkpoint: Checkpoint, convert: Convert, coreai_bundle: Path, tmp_path: Path) -> None:
    parts = open_bundle(convert(checkpoint, CoreAIOptions(precision="fp32", chunks=3), tmp_path / "parts"))
    assert parts.manifest.chunks == ("unet_1", "unet_2", "unet_3")
    shape, tokens = checkpoint.manifest.latents.shape, checkpoint.manifest.tokenizer.max_length
    sample = gaussian(5, (2, *shape[1:]))
    conditions = {"encoder_hidden_states": gaussian(6, (2, tokens, checkpoint.structure.context_dim))}
    found, whole = (open_backend(bundle).predict(sample, 2, conditions) for bundle in (parts, open_bundle(coreai_bundle)))
    np.testing.assert_array_equal(found, whole)


def test_activations_left_in_float(checkpoint: Checkpoint, convert: Convert, tmp_path: Path) -> None:
    bundle = open_bundle(convert(checkpoint, CoreAIOptions(precision="fp32", activations="float"), tmp_path / "floats"))
    assert {layer.activation_bits for layer in bundle.manifest.quantization.layers} == {None}
    # Nothing is rounded, so nothing flips: only sums in another order are left.
    assert verify(bundle).components["unet"].max_relative_error < 1e-4
