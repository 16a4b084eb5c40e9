"""What does not belong is refused by name, in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from s2p_mobile.sources.lora import fuse, parse_lora
from s2p_runtime.errors import S2PError

Refusal = Callable[..., str]
TO_K = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
K = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
CONV_IN = {"unet.conv_in.lora_A.weight": (2, 4, 3, 3), "unet.conv_in.lora_B.weight": (32, 2, 1, 1)}
WHOLE = {f"{K}.lora_down.weight": (2, 64), f"{K}.lora_up.weight": (64, 2)}


@pytest.fixture()
def refusal(family_models: dict[str, Path], tmp_path: Path) -> Refusal:
    """``refusal(shapes, family=..., metadata=..., **values)`` -> the one line."""

    def make(
        shapes: dict[str, Any], family: str = "sd1", metadata: dict[str, str] | None = None, name: str = "a.safetensors"
    ) -> str:
        tensors = {key: torch.ones(value) if isinstance(value, tuple) else torch.tensor(value) for key, value in shapes.items()}
        save_file(tensors, tmp_path / name, metadata=metadata)
        folder = tmp_path / "out"
        folder.mkdir()
        with pytest.raises(S2PError) as caught:
            fuse(family_models[family], folder, *parse_lora(str(tmp_path / name)))
        line = str(caught.value)
        assert "\n" not in line and "; " in line and name in line
        return line

    return make


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "a half": ({"unet.conv_in.lora_A.weight": (2, 4, 3, 3)}, "only one half of unet.conv_in.lora_A.weight: it lacks up"),
    "LoHa's half": ({f"{K}.hada_w1_a": (2, 2)}, "lacks hada_w1_b"),
    "LoHa's second": ({f"{K}.hada_w1_a": (64, 2), f"{K}.hada_w1_b": (2, 64)}, "lacks hada_w2_a"),
    "LoKr's second": ({f"{K}.lokr_w1": (2, 2)}, "lacks lokr_w2"),
    "LoKr's core": ({f"{K}.lokr_w1": (2, 2), f"{K}.lokr_w2": (32, 32), f"{K}.lokr_t2": (2, 2)}, "lacks lokr_w2_a"),
    "a lone magnitude": ({"unet.conv_in.dora_scale": (2, 2)}, "dora_scale and no change that it belongs to"),
    "a lone alpha": ({f"{K}.alpha": ()}, "alpha and no change that it belongs to"),
    "two kinds": ({**WHOLE, f"{K}.diff": (64, 64)}, "in two ways at once"),
    "a factor twice": ({f"{K}.lokr_w1": (2, 2), f"{K}.lokr_w1_a": (2, 1), f"{K}.lokr_w2": (32, 32)}, "in two ways at once"),
    "another width": ({**CONV_IN, "unet.conv_in.lora_A.weight": (2, 5, 3, 3)}, "does not fit [32, 4, 3, 3]"),
    "ranks": ({**CONV_IN, "unet.conv_in.lora_B.weight": (32, 3, 1, 1)}, "does not fit [32, 4, 3, 3]"),
    "no rank": ({"unet.conv_in.lora_A.weight": (0, 4, 3, 3), "unet.conv_in.lora_B.weight": (32, 0)}, "does not fit"),
    # Were it multiplied out, this would be a matrix of four terabytes.
    "enormous": ({f"{K}.lora_down.weight": (1, 10**6), f"{K}.lora_up.weight": (10**6, 1)}, "does not fit [64, 64]"),
    "enormous LoKr": ({f"{K}.lokr_w1": (10**3, 10**3), f"{K}.lokr_w2": (10**3, 10**3)}, "does not fit [64, 64]"),
    "a number": ({f"{K}.lokr_w1": (), f"{K}.lokr_w2": (64, 64)}, "does not fit"),
    "magnitude": ({**WHOLE, f"{K}.dora_scale": (3, 1)}, "dora_scale of shape [3, 1] does not fit [64, 64]"),
    "no bias": ({f"{K}.diff": (64, 64), f"{K}.diff_b": (64,)}, "changes the bias of"),
    "lora_bias": (
        {f"{TO_K}.lora_A.weight": (2, 64), f"{TO_K}.lora_B.weight": (64, 2), f"{TO_K}.lora_B.bias": (64,)},
        f"has {TO_K}.lora_B.bias (trained with peft's lora_bias), and the model's layer has no bias to add it to; train it without",
    ),
    "twice": ({**WHOLE, f"{TO_K}.lora_A.weight": 0.0}, "changes one layer twice"),
    "NaN": ({**WHOLE, f"{K}.lora_up.weight": float("nan")}, f"an infinity or NaN in {K}.lora_up.weight"),
    "alphas": ({**WHOLE, f"{K}.alpha": (2,)}, "2 numbers in"),
    "integers": ({**WHOLE, f"{K}.lora_up.weight": 3}, "torch.int64"),
    "unknown": ({**WHOLE, f"{K}.scalar": ()}, "scalar, which is no part of a LoRA, LoHa, LoKr, DoRA or full difference"),
    "IA3": ({f"{K}.weight": (64,), f"{K}.on_input": ()}, "IA3"),
    "OFT": ({f"{K}.oft_blocks": (2, 2, 2)}, "OFT"),
    "GLoRA": ({f"{K}.a1.weight": (2, 2)}, "GLoRA"),
    "bundled": (
        {**WHOLE, "bundle_emb.style.string_to_param.*": (2, 64)},
        "bundled; give a file of that embedding with `embedding`",
    ),
    "embedding": ({"string_to_param": (2, 64)}, "a text embedding and no LoRA"),
    "empty": ({}, "is empty"),
    "layers": (
        {f"lora_unet_down_blocks_9_{name}.lora_down.weight": (2, 2) for name in "abc"},
        "changes 3 layers that the model does not have (lora_unet_down_blocks_9_a.lora_down.weight); it is for another model",
    ),
    "second encoder": (
        {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": (2, 2)},
        "changes a layer that the model does not have (lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight); "
        "it was made for Stable Diffusion XL",
    ),
    "Flux": ({"lora_unet_double_blocks_0_img_attn_proj.lora_up.weight": (2, 2)}, "it was made for Flux"),
}


@pytest.mark.parametrize("case", CASES)
def test_by_name(refusal: Refusal, case: str) -> None:
    shapes, message = CASES[case]
    assert message in refusal(shapes)


@pytest.mark.parametrize(
    ("width", "title"), [(768, "Stable Diffusion 1"), (1024, "Stable Diffusion 2"), (2048, "Stable Diffusion XL")]
)
def test_a_file_of_another_family_by_its_text_width(refusal: Refusal, width: int, title: str) -> None:
    # The model's own is the last one: nothing can be said of it then.
    family = {768: "sd2", 1024: "sd1", 2048: "sd1"}[width]
    file = {**WHOLE, f"{K}.lora_down.weight": (2, width)}
    assert f"; it was made for {title}, " in refusal(file, family)


@pytest.mark.parametrize(
    ("family", "metadata", "advice"),
    [
        ("sd1", {"ss_base_model_version": "sdxl_base_v1-0"}, "it was made for Stable Diffusion XL"),
        ("sdxl", {"modelspec.architecture": "stable-diffusion-v1/lora"}, "it was made for Stable Diffusion 1"),
        ("sd1", {"modelspec.architecture": "stable-diffusion-v1/lora"}, "it is for another model"),
        ("sd1", {"ss_base_model_version": "sd_v2"}, "it was made for Stable Diffusion 2"),
    ],
)
def test_a_file_of_another_family_by_its_metadata(refusal: Refusal, family: str, metadata: dict[str, str], advice: str) -> None:
    line = refusal({**WHOLE, f"{K.replace('mid_block', 'down_blocks_7')}.lora_up.weight": (2, 2)}, family, metadata)
    assert advice in line and "changes a layer" in line


def test_a_text_encoders_layer_without_a_name(refusal: Refusal) -> None:
    line = refusal({"base_model.model.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": (2, 2)}, "sdxl")
    assert "does not say whether it is of text_encoder or text_encoder_2" in line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unet.r": 2, "unet.use_dora": True}, "says use_dora and has no magnitude"),
        ({"unet.r": 2, "unet.init_lora_weights": "pissa_niter_4"}, "began as pissa_niter_4"),
        ({"unet.r": "two"}, "damaged adapter settings"),
        ({"unet.alpha_pattern": {"(": 1}}, "damaged adapter settings"),
        ({"unet.alpha_pattern": {"(a+)+": 1}}, "damaged adapter settings (the pattern '(a+)+' is too involved)"),
        # Matching would try 2**40 ways; and several patterns count together.
        ({"unet.alpha_pattern": {".?" * 40 + "[Z]": 1}}, "?...' is too involved)"),
        ({"unet.alpha_pattern": {"(.|.)" * 40 + "[Z]": 1}}, ")...' is too involved)"),
        ({"unet.rank_pattern": {f".*.*.*[Z]{'x' * k}": 1 for k in range(4)}}, "(the pattern '.*.*.*[Z]x' is too involved)"),
        ([], "damaged adapter settings"),
    ],
)
def test_settings_in_the_metadata(refusal: Refusal, settings: Any, message: str) -> None:
    assert message in refusal(WHOLE, metadata={"lora_adapter_metadata": json.dumps(settings)})


@pytest.mark.parametrize(
    "pattern",
    [r".*attn(1|2)\.to_(q|k|v|out\.0)", r"(down|up)_blocks\.\d+\..*to_q", ".*attn.*to_.*", "|".join("abcdefghijklmnop")],
)
def test_patterns_as_people_write_them_are_read(family_models: dict[str, Path], tmp_path: Path, pattern: str) -> None:
    """Also beside a pattern for each layer of a large model, as peft writes them."""
    patterns = {pattern: 1} | {f"down_blocks.{k}.to_q": 1 for k in range(1500)}
    metadata = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.alpha_pattern": patterns})}
    save_file({name: torch.ones(shape) for name, shape in WHOLE.items()}, tmp_path / "a.safetensors", metadata=metadata)
    (tmp_path / "out").mkdir()
    fuse(family_models["sd1"], tmp_path / "out", tmp_path / "a.safetensors", 1.0)


def test_settings_beside_pefts_file(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "OFT", "r": 2}))
    assert "peft's kind OFT" in refusal(WHOLE, name="adapter_model.safetensors")


def test_a_scale_that_overflows(family_models: dict[str, Path], tmp_path: Path) -> None:
    save_file({name: torch.ones(shape) for name, shape in WHOLE.items()}, tmp_path / "a.safetensors")
    (tmp_path / "out").mkdir()
    with pytest.raises(S2PError, match=r"makes the layer of .* infinite; give a smaller scale"):
        fuse(family_models["sd1"], tmp_path / "out", tmp_path / "a.safetensors", 1e39)


@pytest.mark.parametrize(
    ("text", "message"),
    [("none.safetensors", "does not exist"), ("none:0.5", "does not exist"), ("FILE:inf", "finite"), ("PICKLE:2", "pickle")],
)
def test_bad_words_for_a_lora(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.safetensors").touch()
    (tmp_path / "a.pt").touch()
    text = text.replace("FILE", str(tmp_path / "a.safetensors")).replace("PICKLE", str(tmp_path / "a.pt"))
    with pytest.raises(S2PError, match=message):
        parse_lora(text)


def test_words_for_a_lora(tmp_path: Path) -> None:
    names = ("a.safetensors", "b:2", "saved/pytorch_lora_weights.safetensors")
    (tmp_path / "saved").mkdir()
    for name in names:
        (tmp_path / name).touch()
    assert parse_lora(str(tmp_path / "a.safetensors")) == (tmp_path / "a.safetensors", 1.0)
    assert parse_lora(f"{tmp_path / 'a.safetensors'}:-0.5") == (tmp_path / "a.safetensors", -0.5)
    assert parse_lora(str(tmp_path / "b:2")) == (tmp_path / "b:2", 1.0)
    assert parse_lora(f"{tmp_path / 'saved'}:2") == (tmp_path / names[2], 2.0)
