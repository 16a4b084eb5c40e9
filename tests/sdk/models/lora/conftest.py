"""Pipelines of diffusers over the small random models, and what a model becomes with an update file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from s2p_mobile.sources.lora import COMPONENTS, fuse

State = dict[str, Tensor]
KINDS = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


def load_parts(folder: Path) -> dict[str, Any]:
    """Component -> network with the weights of a folder."""
    return {name: KINDS[name].from_pretrained(folder / name) for name in COMPONENTS if (folder / name).is_dir()}


@pytest.fixture(scope="session")
def make_pipeline(family_models: dict[str, Path]) -> Callable[[str], Any]:
    """``make_pipeline("sdxl")``: diffusers' pipeline, loaded anew. Tokenizer, scheduler and VAE take no part in a LoRA."""

    def make(family: str) -> Any:
        parts = load_parts(family_models[family])
        rest = {"vae": AutoencoderKL.from_pretrained(family_models[family] / "vae"), "scheduler": DDIMScheduler()}
        tokenizer = CLIPTokenizer.from_pretrained(family_models[family] / "tokenizer")
        if family == "sdxl":
            return StableDiffusionXLPipeline(**parts, **rest, tokenizer=tokenizer, tokenizer_2=tokenizer, add_watermarker=False)
        nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return StableDiffusionPipeline(**parts, **rest, tokenizer=tokenizer, **nothing)

    return make


@pytest.fixture()
def fused(family_models: dict[str, Path], tmp_path: Path) -> Callable[..., dict[str, State]]:
    """``fused(family, file or tensors, scale, metadata)`` -> component -> weights of the model with it."""

    def make(family: str, given: Path | State, scale: float = 1.0, metadata: dict[str, str] | None = None) -> dict[str, State]:
        path = given if isinstance(given, Path) else tmp_path / "given.safetensors"
        if not isinstance(given, Path):
            save_file({name: value.contiguous().clone() for name, value in given.items()}, path, metadata=metadata)
        folder = tmp_path / f"fused-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        fuse(family_models[family], folder, path, scale)
        return {name: part.state_dict() for name, part in load_parts(folder).items()}

    return make


@pytest.fixture(scope="session")
def original_key() -> Callable[[str, Any], str]:
    """``original_key(name, config)``: a U-Net's layer under its original name, by the mapping that tests write single files with."""
    path = Path(__file__).parents[1] / "ldm_layout.py"
    spec = importlib.util.spec_from_file_location("ldm_layout", path)
    assert spec and spec.loader
    layout: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(layout)

    def key(name: str, config: Any) -> str:
        attention = {i: kind.startswith("CrossAttn") for i, kind in enumerate(config.up_block_types)}
        found: str = layout.unet_key(f"{name}.weight", config.layers_per_block, attention)
        return found.removesuffix(".weight")

    return key


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)
