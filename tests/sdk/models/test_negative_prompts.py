"""Negative prompts of models and checkpoints, against diffusers' own pipelines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

from s2p_converters.core.checkpoint import open_checkpoint
from s2p_converters.core.plan import plan_for
from s2p_mobile.cli.app import run
from s2p_mobile.quantize.checkpointing import write_checkpoint
from s2p_mobile.quantize.methods import QuantizationJob, run_method
from s2p_mobile.quantize.recipes import load_recipe
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.torch_artist import checkpoint_artist, model_artist
from s2p_runtime.artist import draw, final_states
from s2p_runtime.walker import initial_latents

MakeModel = Callable[..., Path]
TEXT, NEGATIVE = "a red apple on a blue background", "a panda, blurry"
STEPS = 3
SAME = 1e-3
"""Of the largest value: three float32 calls amplified by guidance, sums in another order (about 1e-5). Another unconditional text
changes these random models by some per cent."""


@torch.no_grad()
@pytest.mark.parametrize("negative", [None, NEGATIVE, ""], ids=["without", "with", "empty"])
@pytest.mark.parametrize(("family", "zeros"), [("sd1", None), ("sd2", None), ("sdxl", True), ("sdxl", False)])
def test_draws_what_diffusers_draws(
    make_model: MakeModel, diffusers_pipeline: Callable[..., Any], family: str, zeros: bool | None, negative: str | None
) -> None:
    folder = make_model(family)
    settings = {} if zeros is None else {"force_zeros_for_empty_prompt": zeros}
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, **settings}))
    model = Model(folder)
    plan = plan_for(folder / "scheduler", "ddim", STEPS)
    artist = model_artist(model, plan, model.guidance)
    start = initial_latents(plan, 3, model.latent_shape)
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    theirs = diffusers_pipeline(model, kind, DDIMScheduler.from_pretrained(folder / "scheduler"), **settings)(
        TEXT, negative_prompt=negative, latents=torch.from_numpy(start), num_inference_steps=STEPS,
        guidance_scale=model.guidance, output_type="latent", height=16, width=16,
    ).images.numpy()  # fmt: skip
    ours = draw(artist, TEXT, 3, negative).latents
    assert np.abs(ours - theirs).max() < SAME * np.abs(theirs).max()
    other = draw(artist, TEXT, 3, None if negative else NEGATIVE).latents
    assert np.abs(other - theirs).max() > 2 * SAME * np.abs(theirs).max()


def test_an_empty_negative_prompt_is_one(family_models: dict[str, Path]) -> None:
    """As in diffusers: None means zeros in such a model, the empty text is encoded."""
    conditioner = Model(family_models["sdxl"]).conditioner
    assert conditioner.zeroes_empty_prompt
    without, empty, negative = (conditioner.encode(TEXT, text, guided=True) for text in (None, "", NEGATIVE))
    for zeros, encoded, other in zip(without.conditions, empty.conditions, negative.conditions, strict=True):
        assert not zeros[0].any() and encoded[0].any() and (other[0] != encoded[0]).any()
        np.testing.assert_array_equal(zeros[1], encoded[1])
    for name, ids in conditioner.token_ids([NEGATIVE]).items():
        np.testing.assert_array_equal(without.token_ids[name], empty.token_ids[name])
        np.testing.assert_array_equal(negative.token_ids[name][:1], ids)


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def checkpoint(
    request: pytest.FixtureRequest, family_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """8-bit weights, float activations."""
    model = Model(family_models[request.param])
    recipe = load_recipe("w4a16")
    recipe = recipe.model_copy(update={"weights": recipe.weights.model_copy(update={"bits": 8})})
    job = QuantizationJob(model, plan_for(model.folder / "scheduler", "ddim", STEPS), recipe, (TEXT,), model.guidance)
    folder = tmp_path_factory.mktemp("checkpoints") / str(request.param)
    folder.mkdir()
    write_checkpoint(job, "rtn", run_method("rtn", job), folder)
    return folder


def test_checkpoints_read_texts_as_their_models_do(checkpoint: Path, family_models: dict[str, Path]) -> None:
    opened = open_checkpoint(checkpoint)
    manifest = opened.manifest
    fp = model_artist(Model(family_models[manifest.family]), manifest.plan, manifest.guidance)
    artist = checkpoint_artist("checkpoint", opened)
    for found, expected in zip(artist.conditions([TEXT], NEGATIVE), fp.conditions([TEXT], NEGATIVE), strict=True):
        np.testing.assert_array_equal(found, expected)
    drawn, expected, without = (draw(*given).latents for given in
        [(artist, TEXT, 1, NEGATIVE), (fp, TEXT, 1, NEGATIVE), (artist, TEXT, 1)])  # fmt: skip
    # Rounding to 8 bits is an error of 2^-8 / sqrt(3) of a weight's range a layer; guidance and a hundred layers amplify it.
    assert np.abs(drawn - expected).max() < 0.1 * np.abs(expected).max()
    assert np.abs(drawn - without).max() > 0


def test_prompts_of_a_batch_are_each_alone(family_models: dict[str, Path]) -> None:
    """Three prompts under a sampler with fresh noise, with one negative prompt."""
    model = Model(family_models["sdxl"])
    artist = model_artist(model, plan_for(model.folder / "scheduler", "euler-a", STEPS), model.guidance)
    prompts, seeds = ["a red apple", "a blue fox", "a rose"], [5, 2**40, 6]
    together = final_states(artist, artist.conditions(prompts, NEGATIVE), seeds)
    for k, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        alone = draw(artist, prompt, seed, NEGATIVE).latents
        assert np.abs(together[k] - alone[0]).max() < SAME * np.abs(alone).max()


def test_a_negative_prompt_without_guidance_is_refused(make_model: MakeModel, fails: Callable[..., str]) -> None:
    folder = make_model("sd1")
    line = fails("generate", folder, TEXT, "--negative-prompt", NEGATIVE, "--guidance", "1")
    assert line == (
        "error: a negative prompt has no effect at guidance 1; leave --negative-prompt out, or draw with a guidance above 1"
    )
    assert "at guidance 0.5" in fails("generate", folder, TEXT, "--negative-prompt", NEGATIVE, "--guidance", "0.5")


def test_generate_takes_a_negative_prompt(checkpoint: Path, tmp_path: Path) -> None:
    pictures = []
    for name, options in {"plain": [], "negative": ["--negative-prompt", NEGATIVE]}.items():
        assert run(["generate", str(checkpoint), TEXT, "--seed", "1", "--out", str(tmp_path / f"{name}.png"), *options]) == 0
        pictures.append((tmp_path / f"{name}.png").read_bytes())
    assert pictures[0] != pictures[1]
    assert draw(checkpoint_artist("checkpoint", open_checkpoint(checkpoint)), TEXT, 1, NEGATIVE).picture.shape == (16, 16, 3)
