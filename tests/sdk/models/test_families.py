"""Families recognised from the folder alone, refusals by name, and what a family decides."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    LatentConsistencyModelPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from s2p_converters.core.checkpoint import open_checkpoint
from s2p_converters.core.graph import GivenRows, Operators, StepTables, StepUNet
from s2p_converters.core.plan import plan_for
from s2p_mobile.cli.app import run
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.pixel_size import PixelSize
from s2p_mobile.sources.time_tables import time_network
from s2p_mobile.sources.trajectory import draw_latents, encode_prompt, float_unet
from s2p_runtime.errors import S2PError
from s2p_runtime.noise import gaussian
from s2p_runtime.walker import denoise, guide, initial_latents

MakeModel = Callable[..., Path]
TEXT = "a red apple on a blue background"


@pytest.mark.parametrize(
    ("family", "guidance", "scaling"), [("sd1", 7.5, 0.18215), ("sd2", 7.5, 0.18215), ("sdxl", 5.0, 0.13025)]
)
def test_a_family_is_recognised_from_its_folder(
    family_models: dict[str, Path], family: str, guidance: float, scaling: float
) -> None:
    model = Model(family_models[family])
    model.load()
    assert (model.family.name, model.guidance, model.latents.scaling_factor, model.steps) == (family, guidance, scaling, 25)
    assert model.latent_shape == (1, 4, 8, 8) and model.picture_size == PixelSize(16, 16)


def pipeline_parts(folder: Path, model: Model) -> dict[str, Any]:
    parts = {
        "vae": model.vae,
        "text_encoder": model.conditioner.text_encoder,
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=16),
        "scheduler": DDIMScheduler.from_pretrained(folder / "scheduler"),
    }
    if model.family.name == "sdxl":
        parts["text_encoder_2"] = model.conditioner.text_encoder_2
        parts["tokenizer_2"] = CLIPTokenizer.from_pretrained(folder / "tokenizer_2", model_max_length=16, pad_token="!")
    return parts


@pytest.mark.parametrize(("family", "prediction"), [("sd1", "epsilon"), ("sd2", "v_prediction"), ("sd2", "epsilon")])
def test_draws_what_diffusers_draws(make_model: MakeModel, family: str, prediction: str) -> None:
    """Text encoder, prediction type, guidance, sampler rows and U-Net together, against the pipeline of diffusers."""
    folder = make_model(family, scheduler={"prediction_type": prediction})
    model = Model(folder)
    plan = plan_for(folder / "scheduler", "ddim", 4)
    assert plan.prediction_type == prediction
    prompt = encode_prompt(model, TEXT, 3, model.guidance)
    ours = draw_latents(float_unet(model, plan), plan, prompt, model.guidance, model.latent_shape)
    parts = pipeline_parts(folder, model)
    pipe = StableDiffusionPipeline(
        **parts, unet=UNet2DConditionModel.from_pretrained(folder / "unet"), safety_checker=None, feature_extractor=None
    )
    pipe.set_progress_bar_config(disable=True)
    start = torch.from_numpy(initial_latents(plan, 3, model.latent_shape))
    theirs = pipe(
        TEXT, latents=start, num_inference_steps=4, guidance_scale=7.5, output_type="latent", height=16, width=16
    ).images.numpy()
    # Four float32 calls amplified by a guidance of 7.5, in another order of sums.
    assert np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max()


def test_sdxl_text_conditions_are_those_of_diffusers(family_models: dict[str, Path]) -> None:
    folder = family_models["sdxl"]
    model = Model(folder)
    pipe = StableDiffusionXLPipeline(**pipeline_parts(folder, model), unet=model.unet)
    expected, _, pooled, _ = pipe.encode_prompt(TEXT, do_classifier_free_guidance=False)
    ours, ours_pooled = model.conditioner.embed(model.conditioner.token_ids([TEXT]))
    # Same modules, same ids: only threads could reorder a sum.
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(ours_pooled, pooled.numpy(), atol=1e-6)
    assert ours.shape == (1, 16, 64) and ours_pooled.shape == (1, 24)


@torch.no_grad()
@pytest.mark.parametrize("zeros", [True, False])
def test_sdxl_draws_what_diffusers_draws(make_model: MakeModel, zeros: bool) -> None:
    """Both text encoders, zeros for the unconditional branch (or the empty text), time ids, the time network, guidance and rows."""
    folder = make_model("sdxl")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "force_zeros_for_empty_prompt": zeros}))
    model = Model(folder, PixelSize(16, 24))
    plan = plan_for(folder / "scheduler", "ddim", 3)
    prompt = encode_prompt(model, TEXT, 3, model.guidance)
    embeddings, pooled = map(torch.from_numpy, prompt.conditions)
    assert pooled.shape == (2, 24)
    ours = draw_latents(float_unet(model, plan), plan, prompt, model.guidance, model.latent_shape)
    # The same from whole tables, as programs take them.
    network = time_network(model.unet, plan.timesteps)
    graph = StepUNet(model.structure, StepTables({}, GivenRows(network.names, network.widths)), Operators())
    graph.load_state_dict(model.unet.state_dict(), strict=False)
    ids = torch.tensor([[24.0, 16, 0, 0, 24, 16]]).expand(2, -1)
    table = network(pooled.double(), ids).float()

    def predict(sample: np.ndarray, call: int) -> np.ndarray:
        batch = torch.from_numpy(np.repeat(sample, 2, axis=0))
        return guide(graph(batch, torch.tensor([call]), embeddings, table).numpy(), model.guidance)

    start = initial_latents(plan, 3, model.latent_shape)
    from_tables = denoise(plan, predict, start, 3)
    pipe = StableDiffusionXLPipeline(
        **pipeline_parts(folder, model), unet=model.unet, add_watermarker=False, force_zeros_for_empty_prompt=zeros
    )
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        TEXT,
        latents=torch.from_numpy(start),
        num_inference_steps=3,
        guidance_scale=5.0,
        output_type="latent",
        height=24,
        width=16,
    ).images.numpy()
    assert ours.shape == (1, 4, 12, 8)
    # float32 with another order of sums: about 1e-5 relative; the pictures with and without zeros differ by far more.
    for found in (ours, from_tables):
        assert np.abs(found - theirs).max() < 1e-3 * np.abs(theirs).max()


def test_latent_consistency_model_draws_what_diffusers_draws(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = {"_class_name": "LCMScheduler", "original_inference_steps": 50}
    folder = make_model("sd1", scheduler=scheduler, time_cond_proj_dim=16)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "LatentConsistencyModelPipeline"}))
    model = Model(folder, embedded_guidance=6.0)
    assert (model.steps, model.guidance, model.embedded_guidance) == (4, 1.0, 6.0)
    plan = plan_for(folder / "scheduler", None, model.steps)
    prompt = encode_prompt(model, TEXT, 3, model.guidance)
    ours = draw_latents(float_unet(model, plan), plan, prompt, model.guidance, model.latent_shape)
    parts = pipeline_parts(folder, model)
    del parts["scheduler"]
    from diffusers import LCMScheduler
    from diffusers.schedulers import scheduling_lcm

    draws = iter(range(10))
    monkeypatch.setattr(
        scheduling_lcm,
        "randn_tensor",
        lambda shape, **_: torch.from_numpy(gaussian(3, tuple(shape), stream=next(draws) + 1)),
    )
    pipe = LatentConsistencyModelPipeline(
        **parts,
        scheduler=LCMScheduler.from_pretrained(folder / "scheduler"),
        unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    start = torch.from_numpy(initial_latents(plan, 3, model.latent_shape))
    theirs = pipe(
        TEXT, latents=start, num_inference_steps=4, guidance_scale=6.0, output_type="latent", height=16, width=16
    ).images.numpy()
    assert np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max()


def test_size_changes_the_latents_and_nothing_else(make_model: MakeModel) -> None:
    folder = make_model("sd1")
    model = Model(folder, PixelSize.parse("24x32"))
    assert model.latent_shape == (1, 4, 16, 12) and model.picture_size == PixelSize(24, 32)
    assert model.unet_sha256 == Model(folder).unet_sha256
    plan = plan_for(folder / "scheduler", "ddim", 1)
    prompt = encode_prompt(model, TEXT, 0, 1.0)
    latents = draw_latents(float_unet(model, plan), plan, prompt, 1.0, model.latent_shape)
    assert model.decode(latents).shape == (1, 3, 32, 24)


@pytest.mark.parametrize(
    ("size", "message"),
    [("26x32", "width 26 of size 26x32 is not a multiple of 4.*use 24"), ("24x30", "height 30"), ("24", "no picture size"),
     ("0x8", "no picture size"), ("24*32", "no picture size")],
)  # fmt: skip
def test_sizes_that_cannot_be_drawn(family_models: dict[str, Path], size: str, message: str) -> None:
    with pytest.raises(S2PError, match=message):
        Model(family_models["sd1"], PixelSize.parse(size))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("StableDiffusion3Pipeline", "Stable Diffusion 3"),
        ("FluxPipeline", "Flux"),
        ("StableDiffusionInpaintPipeline", "inpainting model"),
        ("StableDiffusionControlNetPipeline", "ControlNet"),
        ("WanVideoToVideoPipeline", "video model"),
        ("SomethingNewPipeline", "SomethingNewPipeline"),
    ],
)
def test_other_pipelines_are_refused_by_name(make_model: MakeModel, kind: str, words: str) -> None:
    folder = make_model("sd1")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    with pytest.raises(S2PError, match=rf"holds a {words}.*; supported are.*StableDiffusionXLPipeline") as caught:
        Model(folder)
    assert "\n" not in str(caught.value)


def test_a_component_alone_is_refused_by_name(tmp_path: Path) -> None:
    AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).save_pretrained(tmp_path / "vae")
    ControlNetModel(
        block_out_channels=(8, 8), cross_attention_dim=8, attention_head_dim=2, norm_num_groups=4, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), conditioning_embedding_out_channels=(8, 8),
    ).save_pretrained(tmp_path / "control")  # fmt: skip
    for name, words in (("vae", r"is a VAE alone \(AutoencoderKL\)"), ("control", r"is a ControlNet \(ControlNetModel\)")):
        with pytest.raises(S2PError, match=words):
            Model(tmp_path / name)


def test_parts_that_do_not_belong_together(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model("sd1", in_channels=9)
    with pytest.raises(S2PError, match="inpainting U-Net"):
        Model(folder)
    shutil.rmtree(folder)
    folder = make_model("sdxl")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(S2PError, match="StableDiffusionPipeline but its U-Net is one of sdxl"):
        Model(folder)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    config = folder / "text_encoder" / "config.json"
    own = config.read_text()
    config.write_text(json.dumps({**json.loads(own), "architectures": ["T5EncoderModel"]}))
    with pytest.raises(S2PError, match=r"belongs to no known family .*T5EncoderModel.*known are .*sdxl"):
        Model(folder)
    config.write_text(own)
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(S2PError, match="lacks text_encoder_2"):
        Model(folder)


@pytest.mark.parametrize(("value", "words"), [(float("inf"), "an infinity"), (float("nan"), "NaN")])
def test_weights_that_overflowed_are_named(make_model: MakeModel, value: float, words: str) -> None:
    folder = make_model("sd1")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = {name: tensor.half() for name, tensor in load_file(path).items()}
    tensors["mid_block.resnets.0.conv1.weight"][0, 0, 0, 0] = value
    save_file(tensors, path)
    with pytest.raises(S2PError, match=rf"unet has {words} in mid_block.resnets.0.conv1.weight; "):
        Model(folder).load()


def test_weights_under_the_fp16_variant_alone_are_found(make_model: MakeModel) -> None:
    folder = make_model("sd1")
    expected = {name: value.half().float() for name, value in Model(folder).unet.state_dict().items()}
    model = UNet2DConditionModel.from_pretrained(folder / "unet")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    model.half().save_pretrained(folder / "unet", variant="fp16")
    loaded = Model(folder).unet.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_quantize_command_with_size_prompt_set_and_lora(make_model: MakeModel, tmp_path: Path, family: str) -> None:
    folder = make_model(family, mid_block_type=None)
    width = Model(folder).structure.channels[0]
    save_file(
        {"unet.conv_in.lora_A.weight": torch.ones(1, 4, 3, 3), "unet.conv_in.lora_B.weight": torch.ones(width, 1, 1, 1)},
        tmp_path / "style.safetensors",
    )
    (tmp_path / "captions.json").write_text(json.dumps([f"picture {i}" for i in range(9)]))
    words = ["--size", "24x16", "--lora", f"{tmp_path / 'style.safetensors'}:0.1", "--prompts", str(tmp_path / "captions.json")]
    words += [
        "--count",
        "2",
        "--subset-seed",
        "1",
        "--method",
        "rtn",
        "--recipe",
        "w8a8",
        "--scheduler",
        "ddim",
        "--steps",
        "2",
    ]
    assert run(["quantize", str(folder), "--out", str(tmp_path / "checkpoint"), *words]) == 0
    checkpoint = open_checkpoint(tmp_path / "checkpoint")
    manifest = checkpoint.manifest
    assert (manifest.family, manifest.source.name, manifest.guidance) == (family, f"random-{family}+style", 7.5)
    assert manifest.latents.shape == (1, 4, 8, 12) and checkpoint.structure.sample_size == (8, 12)
    # The recipe leaves the first layer in float: the fused weight stands there, W + 0.1 * 1 * 1.
    expected = Model(folder).unet.conv_in.weight.numpy() + np.float32(0.1)
    np.testing.assert_allclose(checkpoint.floats["conv_in.weight"], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("family", "suffix"), [("sd1", ""), ("sdxl", "_2")])
def test_words_without_an_embedding_are_refused(make_model: MakeModel, family: str, suffix: str) -> None:
    folder = make_model(family)
    path = folder / f"text_encoder{suffix}" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": 1000}))
    with pytest.raises(S2PError, match=rf"tokenizer{suffix} has 1026 words but text_encoder{suffix}/ knows 1000; export"):
        Model(folder)
