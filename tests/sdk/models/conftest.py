"""Small random models of each family in diffusers layout; shapes after diffusers' own tests of the pipelines."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from s2p_mobile.demo import DEMO_MODEL
from s2p_mobile.sources.model import Model

MakeModel = Callable[..., Path]

UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 64,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}
FAMILY_UNET: dict[str, dict[str, Any]] = {
    "sd1": {},
    "sd2": {"use_linear_projection": True, "attention_head_dim": (1, 2), "block_out_channels": (64, 128)},
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 24,
    },
}
PIPELINE = {"sd1": "StableDiffusionPipeline", "sd2": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}


def index_of(pipeline: str, scheduler: str) -> dict[str, Any]:
    """``model_index.json`` as ``save_pretrained`` writes it."""
    index: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": "0.42.1", "scheduler": ["diffusers", scheduler]}
    index |= {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    if pipeline == PIPELINE["sdxl"]:
        index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        index["tokenizer_2"] = ["transformers", "CLIPTokenizer"]
    return index


def text_config(act: str, width: int, **changes: Any) -> CLIPTextConfig:
    settings = {
        "vocab_size": 1026,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": 3,
        "num_attention_heads": width // 16,
        "max_position_embeddings": 16,
        "hidden_act": act,
        "bos_token_id": 1024,
        "eos_token_id": 1025,
        "pad_token_id": 1025,
    }
    return CLIPTextConfig(**{**settings, **changes})


def build_model(folder: Path, family: str, scheduler: dict[str, Any], vocab_size: int = 1026, **unet: Any) -> Path:
    torch.manual_seed(5)
    settings = {**UNET, **FAMILY_UNET[family], **unet}
    UNet2DConditionModel(**settings).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        sample_size=16,
        scaling_factor=0.13025 if family == "sdxl" else 0.18215,
    ).save_pretrained(folder / "vae")
    act = "gelu" if family == "sd2" else "quick_gelu"
    width = settings["cross_attention_dim"] // (2 if family == "sdxl" else 1)
    CLIPTextModel(text_config(act, width, vocab_size=vocab_size)).save_pretrained(folder / "text_encoder")
    shutil.copytree(DEMO_MODEL / "tokenizer", folder / "tokenizer")
    if family == "sdxl":
        second = text_config("gelu", width, projection_dim=24, vocab_size=vocab_size)
        CLIPTextModelWithProjection(second).save_pretrained(folder / "text_encoder_2")
        shutil.copytree(DEMO_MODEL / "tokenizer", folder / "tokenizer_2")
        tokenizer = json.loads((folder / "tokenizer_2" / "tokenizer_config.json").read_text())
        (folder / "tokenizer_2" / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "pad_token": "!"}))
    (folder / "scheduler").mkdir()
    config = json.loads((DEMO_MODEL / "scheduler" / "scheduler_config.json").read_text())
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({**config, **scheduler}))
    (folder / "model_index.json").write_text(json.dumps(index_of(PIPELINE[family], {**config, **scheduler}["_class_name"])))
    return folder


@pytest.fixture(scope="session")
def write_model() -> MakeModel:
    """``write_model(folder, "sd1", scheduler={...}, **unet settings)`` -> folder."""
    return build_model


@pytest.fixture(scope="session")
def diffusers_pipeline() -> Callable[..., Any]:
    """``diffusers_pipeline(model, kind, scheduler, **settings)``: a pipeline of diffusers, of the class ``kind``, on a model's own
    components, silent."""

    def make(model: Model, kind: Any, scheduler: Any, **settings: Any) -> Any:
        folder, reads = model.folder, model.conditioner
        parts = {
            "vae": model.vae,
            "unet": model.unet,
            "text_encoder": reads.text_encoder,
            "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=16),
            "scheduler": scheduler,
        }
        if model.family.name == "sdxl":
            second = CLIPTokenizer.from_pretrained(folder / "tokenizer_2", model_max_length=16, pad_token="!")
            parts |= {"text_encoder_2": reads.text_encoder_2, "tokenizer_2": second, "add_watermarker": False}
        else:
            parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipe = kind(**parts, **settings)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture()
def make_model(tmp_path: Path) -> MakeModel:
    """``make_model("sd1", scheduler={...}, vocab_size=..., **unet settings)`` -> folder."""

    def make(family: str, scheduler: dict[str, Any] | None = None, **unet: Any) -> Path:
        return build_model(tmp_path / f"random-{family}", family, scheduler or {}, **unet)

    return make


@pytest.fixture(scope="session")
def family_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model of each family, not to be changed."""
    folder = tmp_path_factory.mktemp("families")
    return {family: build_model(folder / family, family, {}) for family in FAMILY_UNET}


WORDS = 49408
"""Of CLIP's published vocabulary: every single file has it."""
OF_SINGLE_FILES: dict[str, dict[str, Any]] = {
    "sd1": {},
    "sd2": {},
    "sdxl": {"block_out_channels": (64, 128), "attention_head_dim": (1, 2), "cross_attention_dim": 128},
}
"""Heads as the published models have them: neither U-Net nor text encoders tell them by their shapes."""


def load_layout() -> ModuleType:
    """The neighbouring file; test folders are no packages."""
    path = Path(__file__).with_name("ldm_layout.py")
    spec = importlib.util.spec_from_file_location("ldm_layout", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def layout() -> ModuleType:
    """The names of original checkpoints, by a mapping of our own."""
    return load_layout()


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Model, dict[str, torch.Tensor]]]:
    """``original("sd1")`` -> a small model, and its tensors under the names of single files in a dictionary of one's own."""
    folder = tmp_path_factory.mktemp("originals")
    to_ldm = load_layout().to_ldm

    @cache
    def make(family: str) -> tuple[Model, dict[str, torch.Tensor]]:
        model = Model(build_model(folder / family, family, {}, vocab_size=WORDS, **OF_SINGLE_FILES[family]))
        return model, to_ldm(model)

    return lambda family: (make(family)[0], dict(make(family)[1]))
