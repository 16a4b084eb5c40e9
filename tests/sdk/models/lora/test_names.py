"""How files call a model's layers, against diffusers' own conversions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import Tensor, nn

from s2p_mobile.sources.lora.keys import parse_key
from s2p_mobile.sources.lora.original_names import original_unet_names
from s2p_mobile.sources.lora.spellings import Layer, spellings

WIDE: dict[str, Any] = {"sample_size": 8, "layers_per_block": 2, "norm_num_groups": 8, "cross_attention_dim": 16}
FOUR = {
    "block_out_channels": (8, 8, 16, 16),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "attention_head_dim": 2,
}
THREE = {
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "attention_head_dim": 2,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 56,
}
PUBLISHED = {"sd1": FOUR, "sd2": {**FOUR, "use_linear_projection": True}, "sdxl": THREE}
"""The blocks of the published models, in small."""


@pytest.mark.parametrize("family", PUBLISHED)
def test_original_names_are_those_that_diffusers_converts_from(family: str) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**WIDE, **PUBLISHED[family])
    names = list(unet.state_dict())
    original = original_unet_names({name.rpartition(".")[0] for name in names})
    marks = {}
    for number, name in enumerate(names):
        layer, _, end = name.rpartition(".")
        marks[f"model.diffusion_model.{original[layer]}.{end}"] = torch.tensor(number)
    converted = convert_ldm_unet_checkpoint(marks, unet.config)
    assert {name: int(value) for name, value in converted.items()} == {name: i for i, name in enumerate(names)}


TEXT = "encoder.layers.0.self_attn.q_proj"
SPELLED = {
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_down.weight": "unet",
    "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_out_0.hada_w1_a": "unet",
    "lora_unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_down.weight": "unet",
    "lycoris_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0.lokr_w1": "unet",
    "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_out.0.diff": "unet",
    "unet.middle_block.1.transformer_blocks.0.attn1.to_out.0.lora_up.weight": "unet",
    "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.weight": "unet",
    "unet.base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_B.weight": "unet",
    "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.default.weight": "unet",
    "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora.down.weight": "unet",
    "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight": "unet",
    "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.down.weight": "unet",
    "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_magnitude_vector": "unet",
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.alpha": "text_encoder",
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj.dora_scale": "text_encoder",
    "lora_te2_text_model_encoder_layers_0_self_attn_q_proj.lora_mid.weight": "text_encoder_2",
    "lora_te2.text_model.encoder.layers.0.self_attn.q_proj.lora_up.weight": "text_encoder_2",
    "clip_g.text_model.encoder.layers.0.self_attn.q_proj.lora_up.weight": "text_encoder_2",
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight": "text_encoder",
    "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.up.weight": "text_encoder",
    "text_encoder_2.encoder.layers.0.self_attn.q_proj.lora_A.weight": "text_encoder_2",
}
"""Key in a file -> component, of one layer each."""


def test_all_spellings_of_a_layer_mean_it(family_models: dict[str, Path]) -> None:
    table = spellings(family_models["sdxl"])
    output = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    for key, component in SPELLED.items():
        (layer,) = table[parse_key(Path("x"), key)[0]]
        name = output if component == "unet" else TEXT
        assert (layer.component, layer.name.removeprefix("text_model.")) == (component, name), key
    # The text encoders' layers have one name without prefix: it means either.
    assert {layer.component for layer in table[f"text_model.{TEXT}"]} == {"text_encoder", "text_encoder_2"}
    (lone,) = spellings(family_models["sd1"])[f"text_model.{TEXT}"]
    assert lone.component == "text_encoder"


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_no_two_layers_share_a_spelling(
    family_models: dict[str, Path], original_key: Callable[[str, Any], str], family: str
) -> None:
    unet = UNet2DConditionModel.from_pretrained(family_models[family] / "unet")
    table = spellings(family_models[family])
    for name, layer in unet.named_modules():
        if isinstance(getattr(layer, "weight", None), Tensor | nn.Parameter):
            expected = (Layer("unet", name, has_bias=layer.bias is not None),)
            for spelled in (name, original_key(name, unet.config)):
                assert table[f"unet.{spelled}"] == table[f"lora_unet_{spelled.replace('.', '_')}"] == expected
