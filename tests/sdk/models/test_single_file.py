"""Single-file checkpoints against the model that they were made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from s2p_converters.core.plan import plan_for
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.pixel_size import PixelSize
from s2p_runtime.errors import S2PError

MakeModel = Callable[..., Path]
WORDS = 49408
"""Of CLIP's published vocabulary: every single file has it."""
XL_HEADS: dict[str, Any] = {"block_out_channels": (64, 128), "attention_head_dim": (1, 2), "cross_attention_dim": 128}
"""Heads of 64 channels, as the published model has: neither U-Net nor text encoders tell them by their shapes."""
V_PREDICTION = {"modelspec.prediction_type": "v"}


def module(model: Model, part: str) -> Any:
    return getattr(model.conditioner if part.startswith("text_encoder") else model, part)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_is_the_model_it_was_made_from(layout: ModuleType, make_model: MakeModel, tmp_path: Path, family: str) -> None:
    original = Model(make_model(family, vocab_size=WORDS))
    path = tmp_path / "painter.safetensors"
    save_file(layout.to_ldm(original), path, metadata=V_PREDICTION)
    model = open_model(path, PixelSize(16, 16))
    assert (model.name, model.family.name) == ("painter", family)
    assert model.structure == original.structure and model.latents == original.latents
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = (module(one, part).state_dict() for one in (model, original))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), part
    assert model.conditioner.text_encoder.config.hidden_act == original.conditioner.text_encoder.config.hidden_act
    plan = plan_for(model.folder / "scheduler", None, 4)
    assert plan.prediction_type == "v_prediction"
    folder = model.folder
    model.scratch.cleanup()  # type: ignore[union-attr]
    assert not folder.exists()


def test_two_layers_and_a_level_without_attention(layout: ModuleType, make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model(
        "sd1",
        vocab_size=WORDS,
        layers_per_block=2,
        block_out_channels=(32, 32, 64),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    original = Model(folder)
    save_file({k: v.half() for k, v in layout.to_ldm(original).items()}, tmp_path / "half.safetensors")
    model = open_model(tmp_path / "half.safetensors", PixelSize(16, 16))
    assert model.structure == original.structure
    ours = model.unet.state_dict()
    assert all(torch.equal(ours[name], value.half().float()) for name, value in original.unet.state_dict().items())


@pytest.mark.parametrize("metadata", [{}, V_PREDICTION])
def test_sdxl_is_the_model_it_was_made_from(
    layout: ModuleType, make_model: MakeModel, tmp_path: Path, metadata: dict[str, str]
) -> None:
    original = Model(make_model("sdxl", vocab_size=WORDS, **XL_HEADS))
    save_file(layout.to_ldm(original), tmp_path / "painter.safetensors", metadata=metadata)
    model = open_model(tmp_path / "painter.safetensors", PixelSize(16, 16))
    assert model.structure == original.structure and model.latents == original.latents
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        ours, theirs = (module(one, part).state_dict() for one in (model, original))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), part
    settings, originals = model.conditioner.settings, original.conditioner.settings
    assert settings is not None and originals is not None
    # Of the published vocabulary, "!" is the first word.
    assert (settings.second_tokenizer.pad_id, settings.zero_unconditional) == (0, True)
    assert settings.time_ids == (16, 16, 0, 0, 16, 16) == originals.time_ids
    plan = plan_for(model.folder / "scheduler", None, 4)
    assert plan.prediction_type == ("v_prediction" if metadata else "epsilon")


@pytest.mark.parametrize("middle", ["UNetMidBlock2DCrossAttn", None])
def test_depths_that_differ_within_a_level(
    layout: ModuleType, make_model: MakeModel, tmp_path: Path, middle: str | None
) -> None:
    """As SSD-1B and Segmind Vega have them, the latter without a middle."""
    depths = {"transformer_layers_per_block": [1, [1, 2]], "reverse_transformer_layers_per_block": [[2, 1, 3], 1]}
    folder = make_model("sdxl", vocab_size=WORDS, layers_per_block=2, mid_block_type=middle, **depths, **XL_HEADS)
    original = Model(folder)
    save_file(layout.to_ldm(original), tmp_path / "a.safetensors")
    model = open_model(tmp_path / "a.safetensors", PixelSize(16, 16))
    assert model.structure == original.structure
    ours, theirs = model.unet, UNet2DConditionModel.from_pretrained(folder / "unet")
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in theirs.state_dict().items())
    added = {"text_embeds": torch.randn(1, 24), "time_ids": torch.randn(1, 6)}
    given = (torch.randn(1, 4, 8, 8), torch.tensor([7]), torch.randn(1, 16, 128))
    with torch.no_grad():
        drawn = [unet(*given, added_cond_kwargs=added).sample for unet in (ours, theirs)]
    assert torch.equal(*drawn)


def test_a_middle_that_no_configuration_says(layout: ModuleType, make_model: MakeModel, tmp_path: Path) -> None:
    tensors = layout.to_ldm(Model(make_model("sdxl", vocab_size=WORDS, **XL_HEADS)))
    middle = "model.diffusion_model.middle_block.1.transformer_blocks.1."
    save_file({key: value for key, value in tensors.items() if not key.startswith(middle)}, tmp_path / "a.safetensors")
    with pytest.raises(S2PError, match=r"its middle is 1 transformers deep, and the level before it 2\); give the model as"):
        open_model(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("family", "unet", "words"),
    [
        (
            "sdxl",
            {"block_out_channels": (64, 128)},
            "its text encoder is 32 channels wide, no multiple of the 64 channels of a head",
        ),
        (
            "sdxl",
            {"cross_attention_dim": 128, "block_out_channels": (64, 96)},
            "its U-Net is 96 channels wide, no multiple of the 64",
        ),
        ("sd2", {"block_out_channels": (32, 128)}, "its U-Net is 32 channels wide, no multiple of the 64 channels of a head"),
        ("sd1", {"cross_attention_dim": 32}, "its text encoder is 32 channels wide"),
        ("sd2", {}, "its text encoder knows 1026 words, not the 49408 of CLIP's vocabulary"),
        (
            "sd1",
            {"norm_num_groups": 8, "block_out_channels": (40, 64)},
            "its U-Net is 40 channels wide, no multiple of the 32 groups",
        ),
    ],
)
def test_widths_of_other_heads_are_refused(
    layout: ModuleType, make_model: MakeModel, fails: Callable[..., str], family: str, unet: dict[str, Any], words: str
) -> None:
    folder = make_model(family, **unet)
    path = folder.parent / "other.safetensors"
    save_file(layout.to_ldm(Model(folder)), path, metadata=V_PREDICTION)
    line = fails("quantize", path, "--method", "rtn", "--out", "checkpoint")
    assert line.startswith(f"error: {path} cannot be used as a single file ({words}")
    assert line.endswith("; give the model as a diffusers folder")


def test_time_ids_of_another_width_are_refused(layout: ModuleType, make_model: MakeModel, tmp_path: Path) -> None:
    # 49 numbers do not divide by the six time ids.
    tensors = layout.to_ldm(Model(make_model("sdxl", **XL_HEADS)))
    key = "model.diffusion_model.label_emb.0.0.weight"
    tensors[key] = torch.zeros(len(tensors[key]), 24 + 49)
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(S2PError, match=r"takes 73 added numbers, no pooled text of 24 and 6 time ids.*; give the model as"):
        open_model(tmp_path / "a.safetensors")


def test_tokenizer_gives_clips_published_ids(layout: ModuleType, make_model: MakeModel, tmp_path: Path) -> None:
    save_file(layout.to_ldm(Model(make_model("sd1", vocab_size=WORDS))), tmp_path / "a.safetensors")
    model = open_model(tmp_path / "a.safetensors", PixelSize(16, 16))
    ids = model.conditioner.token_ids(["a photo of a cat"])["token_ids"][0].tolist()
    # The example of CLIP's documentation in transformers.
    assert ids == [49406, 320, 1125, 539, 320, 2368] + [49407] * 10


@pytest.mark.parametrize(("line", "expected"), [("parameterization: v", "v_prediction"), ("linear_start: 0.00085", "epsilon")])
def test_sd2_says_what_it_predicts(layout: ModuleType, make_model: MakeModel, tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "two.safetensors"
    save_file(layout.to_ldm(Model(make_model("sd2", vocab_size=WORDS))), path)
    with pytest.raises(S2PError, match=r"noise or v; put its original configuration beside it as two\.yaml"):
        open_model(path)
    (tmp_path / "two.yaml").write_text(f"model:\n  params:\n    {line}\n")
    model = open_model(path, PixelSize(16, 16))
    assert plan_for(model.folder / "scheduler", None, 2).prediction_type == expected


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["model.diffusion_model.joint_blocks.0.x"], "Stable Diffusion 3"),
        (["double_blocks.0.img_attn.proj.weight"], "Flux"),
        (["conditioner.embedders.0.model.x", "model.diffusion_model.x"], "one of SDXL's two text encoders, as its refiner has"),
        (["conditioner.embedders.0.transformer.x", "conditioner.embedders.1.model.x", "first_stage_model.x"], "has no U-Net"),
        (["cond_stage_model.1.transformer.x"], r"is SDXL under the names of stable-diffusion\.cpp"),
        (["control_model.x"], "ControlNet"),
        (["lora_unet_down_blocks_0_x.lora_up.weight"], "LoRA file, which goes with `lora`"),
        (["encoder.down.0.x", "decoder.conv_in.weight"], "VAE alone"),
        (["model.diffusion_model.x", "first_stage_model.x"], "has no text encoder"),
        (["words"], "no checkpoint known"),
        (["model.diffusion_model.x", "first_stage_model.x", "cond_stage_model.transformer.x"], "has no VAE decoder"),
        (["model.diffusion_model.x", "first_stage_model.decoder.x", "cond_stage_model.transformer.x"], "is incomplete"),
        (["input_blocks.0.0.weight", "out.2.bias"], "is a U-Net alone"),
        (
            ["unet.conv_in.weight", "unet.conv_out.bias"],
            "is a file of components of a diffusers folder, which",
        ),
        (["down_blocks.0.resnets.0.conv1.weight"], "is one component of a diffusers folder"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, keys: list[str], words: str) -> None:
    save_file({key: torch.zeros(1) for key in keys}, tmp_path / "a.safetensors")
    with pytest.raises(S2PError, match=words) as caught:
        open_model(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value) and "; " in str(caught.value)


def test_damaged_file_and_full_disk(
    layout: ModuleType, tmp_path: Path, family_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{broken")
    with pytest.raises(S2PError, match="cannot be read as safetensors"):
        open_model(path)

    class Full:
        free = 10

    save_file(layout.to_ldm(Model(family_models["sd1"])), path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Full)
    with pytest.raises(S2PError, match=r"of disk and 0\.0 GiB are free.*set TMPDIR"):
        open_model(path)


def test_too_little_memory_is_foreseen(family_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(family_models["sd1"])
    parts: list[Any] = [model.unet, model.vae, model.conditioner.text_encoder]
    floats = [sum(p.numel() for p in part.state_dict().values() if p.is_floating_point()) for part in parts]
    # Float32, the U-Net's integers beside it, and half a GiB of libraries.
    needed = 4 * sum(floats) + floats[0] + 2**29
    monkeypatch.setattr("s2p_converters.core.resources.available_memory", lambda: needed)
    Model(family_models["sd1"]).load()
    monkeypatch.setattr("s2p_converters.core.resources.available_memory", lambda: needed - 1)
    with pytest.raises(S2PError, match=r"in float32 needs about .* of memory"):
        Model(family_models["sd1"]).load()
