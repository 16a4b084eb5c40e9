"""The published models' own shapes, without their numbers: every key of theirs is understood."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import s2p_mobile.sources.single_file as single_file
from s2p_mobile.sources.weight_file import WeightFile

Tensors = dict[str, torch.Tensor]
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {"cross_attention_dim": 768},
    "sd2": {"cross_attention_dim": 1024, "use_linear_projection": True, "attention_head_dim": [5, 10, 20, 20]},
    "sdxl": {
        "cross_attention_dim": 2048, "use_linear_projection": True, "attention_head_dim": [5, 10, 20],
        "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": [1, 2, 10],
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
"""As the folders on the hub have them."""
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
VIT_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
BIG_G = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20, "projection_dim": 1280,
}  # fmt: skip


def state(kind: Any, settings: dict[str, Any]) -> Tensors:
    with torch.device("meta"):
        module = kind(CLIPTextConfig(**settings)) if "hidden_size" in settings else kind(**settings)
    return {name.removeprefix("text_model."): value for name, value in module.state_dict().items()}


def published(layout: ModuleType, family: str) -> Tensors:
    unet = UNETS[family]
    with torch.device("meta"):
        module = UNet2DConditionModel(**unet)
    attends = {i: kind.startswith("CrossAttn") for i, kind in enumerate(module.config.up_block_types)}
    out = {f"model.diffusion_model.{layout.unet_key(k, 2, attends)}": v for k, v in module.state_dict().items()}
    levels = (128, 256, 512, 512)
    vae = {"block_out_channels": levels, "layers_per_block": 2, "down_block_types": ("DownEncoderBlock2D",) * 4}
    for name, value in state(AutoencoderKL, vae | {"up_block_types": ("UpDecoderBlock2D",) * 4}).items():
        matrix = "attentions.0.to_" in name and name.endswith("weight")
        out[f"first_stage_model.{layout.vae_key(name, 4)}"] = value[:, :, None, None] if matrix else value
    if family == "sd2":
        packed = layout.open_clip(state(CLIPTextModel, VIT_H), torch.empty(1024, 1024, device="meta"), extra=1)
        return out | {f"cond_stage_model.model.{name}": value for name, value in packed.items()}
    prefix = "conditioner.embedders.0." if family == "sdxl" else "cond_stage_model."
    out |= {f"{prefix}transformer.text_model.{name}": value for name, value in state(CLIPTextModel, CLIP_L).items()}
    if family == "sdxl":
        second = state(CLIPTextModelWithProjection, BIG_G)
        packed = layout.open_clip(second, second.pop("text_projection.weight").T, extra=0)
        out |= {f"conditioner.embedders.1.model.{name}": value for name, value in packed.items()}
    return out


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_key_of_the_published_models(
    layout: ModuleType, tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = published(layout, family)
    written: dict[str, tuple[dict[str, Any], Tensors]] = {}
    told = WeightFile(tensors, {"modelspec.prediction_type": "epsilon"})
    monkeypatch.setattr(single_file, "read_weight_file", lambda *_: told)
    monkeypatch.setattr(single_file, "require_disk", lambda *_: None)
    monkeypatch.setattr(
        single_file, "write_component", lambda folder, config, weights: written.update({folder.name: (config, weights)})
    )
    single_file.unpack(tmp_path / "a.safetensors", tmp_path)
    config, weights = written["unet"]
    with torch.device("meta"):
        theirs = UNet2DConditionModel(**UNETS[family]).config
        ours = UNet2DConditionModel.from_config(config).config
    for name in ("block_out_channels", "down_block_types", "up_block_types", "layers_per_block", "cross_attention_dim"):
        assert list(ours[name]) == list(theirs[name]) if isinstance(ours[name], list | tuple) else ours[name] == theirs[name]
    heads = (one["attention_head_dim"] for one in (ours, theirs))
    assert len({str(each) for each in heads}) == 1
    encoder = written["text_encoder"][0]
    wanted = VIT_H if family == "sd2" else CLIP_L
    assert {name: encoder[name] for name in wanted} == wanted
    assert len(weights) == len([key for key in tensors if key.startswith("model.diffusion_model.")])
