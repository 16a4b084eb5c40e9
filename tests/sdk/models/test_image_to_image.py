"""Starting from a picture: models and checkpoints against diffusers' own image-to-image pipelines, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from s2p_converters.core.checkpoint import open_checkpoint
from s2p_converters.core.plan import plan_for
from s2p_mobile import generate
from s2p_mobile.cli.app import run
from s2p_mobile.quantize.checkpointing import write_checkpoint
from s2p_mobile.quantize.methods import QuantizationJob, run_method
from s2p_mobile.quantize.recipes import Recipe
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.torch_artist import checkpoint_artist, model_artist
from s2p_runtime.artist import FromPicture, draw
from s2p_runtime.noise import gaussian

MakeModel = Callable[..., Path]
TEXT = "a red apple on a blue background"
STEPS = 5
SAME = 1e-3
"""Of the largest value: a few float32 calls amplified by guidance, sums in another order (about 1e-5). A start that is one step off
changes these random models by some per cent."""
KINDS = {"ddim": DDIMScheduler, "pndm": PNDMScheduler}


def a_picture(width: int = 16, height: int = 16) -> Image.Image:
    bytes_ = np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(bytes_)


@torch.no_grad()
@pytest.mark.parametrize("scheduler", ["ddim", "pndm"])
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_draws_what_diffusers_draws(
    make_model: MakeModel, diffusers_pipeline: Callable[..., Any], family: str, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(make_model(family))
    plan = plan_for(model.folder / "scheduler", scheduler, STEPS)
    artist = model_artist(model, plan, model.guidance)
    picture = a_picture()
    ours = draw(artist, TEXT, 3, image=FromPicture(np.asarray(picture), 0.6)).latents

    # Theirs draws the picture's latents; handed over as latents they are taken as they are.
    processed = VaeImageProcessor(vae_scale_factor=2).preprocess(picture)
    latents = model.vae.encode(processed).latent_dist.mode() * model.vae.config.scaling_factor
    kind = StableDiffusionXLImg2ImgPipeline if family == "sdxl" else StableDiffusionImg2ImgPipeline
    theirs_scheduler = KINDS[scheduler].from_pretrained(model.folder / "scheduler", skip_prk_steps=True)
    pipe = diffusers_pipeline(model, kind, theirs_scheduler)
    noise = torch.from_numpy(gaussian(3, model.latent_shape))
    monkeypatch.setitem(type(pipe).prepare_latents.__globals__, "randn_tensor", lambda *_, **__: noise)
    theirs = pipe(
        TEXT, image=latents, strength=0.6, num_inference_steps=STEPS, guidance_scale=model.guidance, output_type="latent",
        **({"original_size": (16, 16), "target_size": (16, 16)} if family == "sdxl" else {}),
    ).images.numpy()  # fmt: skip
    assert np.abs(ours - theirs).max() < SAME * np.abs(theirs).max()
    for other in (FromPicture(np.asarray(picture), 0.8), FromPicture(np.asarray(picture)[::-1].copy(), 0.6)):
        assert np.abs(draw(artist, TEXT, 3, image=other).latents - theirs).max() > 2 * SAME * np.abs(theirs).max()


@torch.no_grad()
def test_statistics_of_the_latents_are_taken_away(make_model: MakeModel) -> None:
    """As diffusers' SDXL pipeline does it with ``latents_mean`` and ``latents_std``."""
    folder = make_model("sdxl")
    config = json.loads((folder / "vae" / "config.json").read_text())
    mean, std = [-1.5, 1.75, -1.25, 2.5], [8.5, 6.0, 6.5, 5.25]
    (folder / "vae" / "config.json").write_text(json.dumps({**config, "latents_mean": mean, "latents_std": std}))
    model = Model(folder)
    processed = VaeImageProcessor(vae_scale_factor=2).preprocess(a_picture())
    encoded = model.vae.encode(processed).latent_dist.mode()
    shape = (1, 4, 1, 1)
    expected = (encoded - torch.tensor(mean).view(shape)) * config["scaling_factor"] / torch.tensor(std).view(shape)
    artist = model_artist(model, plan_for(folder / "scheduler", "ddim", 2), 1.0)
    found = artist.encode(processed.numpy())
    # The same few float32 operations in another order.
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_a_checkpoint_starts_where_its_model_does(make_model: MakeModel, tmp_path: Path) -> None:
    """In 8 bits and with a sampler that looks back; the checkpoint knows it by its plan alone."""
    model = Model(make_model("sd1"))
    plan = plan_for(model.folder / "scheduler", "dpm++2m", STEPS)
    rules = {"name": "test", "description": "of a test", "weights": {"bits": 8}, "activations": {"bits": None}}
    recipe = Recipe.model_validate({**rules, "calibration": {"prompts": 1}})
    job = QuantizationJob(model, plan, recipe, (TEXT,), model.guidance, seed=1, device="cpu")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write_checkpoint(job, "rtn", run_method("rtn", job), folder)
    start = FromPicture(np.asarray(a_picture()), 0.6)
    fp = draw(model_artist(model, plan, model.guidance), TEXT, 3, image=start).latents
    artist = checkpoint_artist("c", open_checkpoint(folder))
    assert artist.picture_size == (16, 16)
    quantized = draw(artist, TEXT, 3, image=start).latents
    # Rounding to 8 bits is an error of 2^-8 / sqrt(3) of a weight's range a layer, which a hundred layers and guidance amplify.
    assert np.abs(quantized - fp).max() < 0.1 * np.abs(fp).max()


def test_a_picture_of_any_size_is_fitted(make_model: MakeModel) -> None:
    folder = make_model("sd1")
    wide = Image.new("RGB", (48, 16), "red")
    wide.paste(a_picture(), (16, 0))
    found = generate(folder, TEXT, image=wide, strength=0.4, steps=STEPS, scheduler="ddim", seed=2)
    assert found == generate(folder, TEXT, image=a_picture(), strength=0.4, steps=STEPS, scheduler="ddim", seed=2)
    assert found.size == (16, 16)
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    white = generate(folder, TEXT, image=Image.new("L", (16, 16), 255), strength=0.4, steps=STEPS, scheduler="ddim", seed=2)
    assert generate(folder, TEXT, image=clear, strength=0.4, steps=STEPS, scheduler="ddim", seed=2) == white


def test_the_command(make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, source, out = make_model("sd1"), tmp_path / "a.jpg", tmp_path / "out.png"
    a_picture(40, 30).save(source)
    words = ["generate", str(folder), TEXT, "--steps", "5", "--scheduler", "ddim", "--out", str(out)]
    assert run([*words, "--image", str(source), "--strength", "0.4"]) == 0
    assert capsys.readouterr().out.endswith(f"picture: {out}\n")
    first = out.read_bytes()
    assert run([*words, "--image", str(source)]) == 0 and out.read_bytes() != first
    (tmp_path / "no.png").write_bytes(b"no picture")
    for more, message in (
        (["--strength", "0.4"], "--strength is about a picture to start from; give --image with it"),
        (["--image", str(source), "--strength", "0"], "strength 0 is out of range; give a number above 0, at most 1"),
        (["--image", str(source), "--strength", "0.1"], "strength 0.1 leaves none of 5 steps; give 0.2 or more"),
        (
            ["--image", str(tmp_path / "absent.png")],
            f"{tmp_path / 'absent.png'} is no picture that can be read (it does not exist)",
        ),
        (["--image", str(tmp_path / "no.png")], f"{tmp_path / 'no.png'} is no picture that can be read"),
    ):
        capsys.readouterr()
        assert run([*words, *more]) == 2
        assert message in capsys.readouterr().err
