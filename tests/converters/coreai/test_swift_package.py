"""``--layout coreai-models``: what the Swift package of apple/coreai-models reads, and the same numbers behind it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.coreai import swift_package
from s2p_converters.targets.coreai.options import CoreAIOptions
from s2p_converters.targets.coreai.swift_package import package_settings
from s2p_converters.targets.timesteps import call_thresholds, nearest_call
from s2p_runtime.bundle import open_bundle
from s2p_runtime.engines import open_backend
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.coreai.engine import Engine
from s2p_runtime.noise import gaussian
from s2p_runtime.verify import verify


@pytest.fixture(scope="module")
def folder(checkpoint: Checkpoint, convert: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model has 16 tokens and 4 pixels to a latent; the package's own numbers are those of Stable Diffusion."""
    out = tmp_path_factory.mktemp("bundles") / "package.s2pmobile"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swift_package, "_TOKENS", 16)
        patch.setattr(swift_package, "_PIXELS", 4)
        return convert(checkpoint, CoreAIOptions(precision="fp32", layout="coreai-models"), out)


def test_files_and_metadata(folder: Path, checkpoint: Checkpoint) -> None:
    """As ``PipelineDescriptor.loadFromMetadata`` and ``ModelBundle`` read them."""
    place = folder / "Resources"
    metadata = json.loads((place / "metadata.json").read_text(encoding="utf-8"))
    assert (metadata["metadata_version"], metadata["kind"]) == ("0.2", "diffusion")
    assert all((place / name / "main.mlirb").is_file() for name in metadata["assets"].values())
    assert set(metadata["assets"]) == {"text_encoder", "unet", "vae_decoder"}
    assert (place / "tokenizer" / "vocab.json").is_file() and (place / "tokenizer" / "merges.txt").is_file()
    diffusion = metadata["diffusion"]
    assert diffusion["type"] == "stable-diffusion" and diffusion["prediction_type"] == "epsilon"
    assert diffusion["image_size"] == checkpoint.manifest.latents.height * 4
    # SchedulerDefaults has four fields, all of them needed.
    assert set(diffusion["scheduler"]) == {"training_steps", "beta_start", "beta_end", "beta_schedule"}


def test_ports_in_the_packages_order(folder: Path) -> None:
    """``run(floatInputs:)`` gives values in the order of the function's own names."""
    unet = open_bundle(folder).manifest.components["unet"]
    assert [port.name for port in unet.inputs] == ["sample", "timestep", "encoder_hidden_states"]
    assert {port.dtype for port in (*unet.inputs, *unet.outputs)} == {"float32"}
    assert [port.name for port in open_bundle(folder).manifest.components["vae_decoder"].inputs] == ["z"]


def test_it_verifies(folder: Path) -> None:
    assert verify(open_bundle(folder)).ok


def test_every_timestep_finds_the_nearest_call(folder: Path, checkpoint: Checkpoint, coreai_bundle: Path) -> None:
    plain = open_backend(open_bundle(coreai_bundle))
    shape, tokens = checkpoint.manifest.latents.shape, checkpoint.manifest.tokenizer.max_length
    sample, text = gaussian(5, (2, *shape[1:])), gaussian(6, (2, tokens, checkpoint.structure.context_dim))
    thresholds = call_thresholds(checkpoint.manifest.plan.timesteps)
    engine = Engine()
    engine.load("unet", folder / "Resources" / "Unet.aimodel", "main")
    for timestep in (0, 1, *(t + d for t in thresholds for d in (-1, 0)), 999):
        feeds = {"sample": sample, "timestep": np.full(2, timestep, np.float32), "encoder_hidden_states": text}
        found = engine.run("unet", "main", feeds)["noise_pred"]
        want = plain.predict(sample, nearest_call(thresholds, timestep), {"encoder_hidden_states": text})
        np.testing.assert_array_equal(found, want, err_msg=str(timestep))
    engine.close()


def test_models_that_the_package_cannot_draw_with(checkpoint: Checkpoint) -> None:
    with pytest.raises(S2PError, match="has 16 tokens to a text, the package takes 77"):
        package_settings(checkpoint)
    with pytest.raises(S2PError, match="runs one U-Net at one size"):
        CoreAIOptions(layout="coreai-models", chunks=2)
