"""Bundles that start from a picture: the emitted encoders against diffusers' own, and what is drawn against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.plan import image_starts
from s2p_converters.targets.coreai.options import CoreAIOptions
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_mobile.sources.torch_artist import checkpoint_artist
from s2p_runtime.artist import FromPicture, draw
from s2p_runtime.bundle import open_bundle
from s2p_runtime.conditioning import components_of
from s2p_runtime.drawing import BundleArtist
from s2p_runtime.engines import open_backend
from s2p_runtime.errors import S2PError
from s2p_runtime.pictures import from_picture, relative_error
from s2p_runtime.verify import RECORDED_TOLERANCE, verify

TARGETS = ("executorch", "coreml", "coreai")
FLOAT32 = 1e-4
"""What hosts allow a float32 program beside the source's float32 network."""


@pytest.fixture(params=TARGETS)
def bundle_folder(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(f"{request.param}_bundle")
    return folder


@torch.no_grad()
def test_encodes_as_diffusers_does_and_draws_as_torch_does(checkpoint: Checkpoint, bundle_folder: Path) -> None:
    bundle = open_bundle(bundle_folder)
    manifest = bundle.manifest
    assert manifest.image_starts == image_starts(checkpoint.manifest.plan, checkpoint.folder / "scheduler")
    assert "vae_encoder" in manifest.components and "vae_encoder" not in components_of(bundle)
    backend = open_backend(bundle)
    artist, own = BundleArtist(bundle, backend), checkpoint_artist("c", checkpoint)
    assert artist.picture_size == own.picture_size
    width, height = artist.picture_size
    picture = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    vae = AutoencoderKL.from_pretrained(checkpoint.folder / "vae")
    expected = vae.encode(torch.from_numpy(from_picture(picture))).latent_dist
    moments = backend.encode(from_picture(picture))
    assert relative_error(moments[:, :4], expected.mean.numpy()) < FLOAT32
    assert relative_error(moments[:, 4:], expected.logvar.numpy()) < FLOAT32

    start = FromPicture(picture, 0.7)  # two of three steps
    found, wanted = (draw(each, "a red apple", 3, image=start).latents for each in (artist, own))
    # Two calls in float32; some activations round to the next integer.
    assert relative_error(found, wanted) < RECORDED_TOLERANCE
    other = draw(artist, "a red apple", 3, image=FromPicture(picture, 0.4)).latents
    assert relative_error(other, wanted) > 2 * RECORDED_TOLERANCE


def test_verify_looks_at_the_encoder(bundle_folder: Path) -> None:
    result = verify(open_bundle(bundle_folder))
    assert result.ok and result.components["vae_encoder"].max_relative_error is not None


def test_apples_pipeline_finds_its_encoder() -> None:
    options = CoreMLOptions(layout="apple", image_to_image=True)
    assert options.packages["vae_encoder"] == "Resources/VAEEncoder.mlpackage"


def test_a_package_that_draws_from_noise_only_is_told_apart() -> None:
    with pytest.raises(
        S2PError, match="the Swift package of apple/coreai-models draws from noise only; convert with `layout=s2p`"
    ):
        CoreAIOptions(layout="coreai-models", image_to_image=True)
