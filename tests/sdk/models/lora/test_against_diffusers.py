"""Models with a LoRA against diffusers' ``load_lora_weights`` and ``fuse_lora`` (which are peft's), weight by weight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

State = dict[str, Tensor]
Fused = Callable[..., dict[str, State]]
PREFIX = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
CLOSE = {"rtol": 2e-6, "atol": 2e-6}
"""Float32 against double rounded once: sums of at most 4 products and DoRA's norms of at most 600, below 1 each."""


def layers(pipe: Any, component: str) -> dict[str, nn.Module]:
    """What trainers train: linear layers and convolutions; of text encoders those inside of the blocks."""
    part = getattr(pipe, component)
    found = {name: each for name, each in part.named_modules() if isinstance(each, nn.Linear | nn.Conv2d)}
    return found if component == "unet" else {name: each for name, each in found.items() if ".layers." in name}


def halves(layer: nn.Module, rank: int) -> tuple[Tensor, Tensor]:
    """Random down and up, of the shapes that trainers write."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    if isinstance(layer, nn.Linear):
        down, up = torch.randn(rank, layer.in_features), torch.randn(layer.out_features, rank)
    else:
        down, up = torch.randn(rank, layer.in_channels, *layer.kernel_size), torch.randn(layer.out_channels, rank, 1, 1)
    return 0.1 * down, 0.1 * up


def parts_of(pipe: Any) -> list[str]:
    return [name for name in PREFIX if getattr(pipe, name, None) is not None]


def assert_alike(ours: dict[str, State], pipe: Any, before: dict[str, State]) -> None:
    changed = 0
    for component in parts_of(pipe):
        theirs = getattr(pipe, component).state_dict()
        assert ours[component].keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[component][name], value, msg=lambda text, name=name: f"{name}: {text}", **CLOSE)
            changed += not torch.equal(ours[component][name], before[component][name])
    assert changed, "the file changes something"


def states(pipe: Any) -> dict[str, State]:
    return {name: {key: value.clone() for key, value in getattr(pipe, name).state_dict().items()} for name in parts_of(pipe)}


def fuse_theirs(pipe: Any, path: Path, scale: float) -> None:
    pipe.load_lora_weights(path.parent, weight_name=path.name)
    pipe.fuse_lora(components=parts_of(pipe), lora_scale=scale)
    pipe.unload_lora_weights()


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_kohyas_files(
    make_pipeline: Callable[[str], Any],
    fused: Fused,
    original_key: Callable[[str, Any], str],
    tmp_path: Path,
    family: str,
) -> None:
    """Of all layers, with convolutions (LoCon); sd-scripts calls SDXL's by their original names."""
    pipe = make_pipeline(family)
    before, file = states(pipe), {}
    for component in parts_of(pipe):
        for number, (name, layer) in enumerate(layers(pipe, component).items()):
            spelled = name if component == "unet" else f"text_model.{name.removeprefix('text_model.')}"
            if component == "unet" and family == "sdxl":
                spelled = original_key(name, pipe.unet.config)
            key = f"{PREFIX[component]}_{spelled.replace('.', '_')}"
            rank = 2 + number % 2
            file[f"{key}.lora_down.weight"], file[f"{key}.lora_up.weight"] = halves(layer, rank)
            file[f"{key}.alpha"] = torch.tensor(1.0 if component == "unet" else 4.0)
    path = tmp_path / "kohya.safetensors"
    save_file(file, path)
    fuse_theirs(pipe, path, 0.7)
    assert_alike(fused(family, path, 0.7), pipe, before)


def test_older_diffusers_and_half_precision(make_pipeline: Callable[[str], Any], fused: Fused, tmp_path: Path) -> None:
    pipe = make_pipeline("sd1")
    before, file = states(pipe), {}
    for name, layer in layers(pipe, "unet").items():
        if ".attn" in name:
            inner, _, projection = name.rpartition(".")[0].rpartition(".to_out") if name.endswith(".0") else (name, "", "")
            spelled = f"{inner}.to_out" if projection == "" and name.endswith(".0") else name
            spelled = spelled.replace("attn1.", "attn1.processor.").replace("attn2.", "attn2.processor.")
            down, up = halves(layer, 4)
            file[f"unet.{spelled}_lora.down.weight"], file[f"unet.{spelled}_lora.up.weight"] = down.half(), up.half()
    path = tmp_path / "old.safetensors"
    save_file(file, path)
    fuse_theirs(pipe, path, 1.0)
    assert_alike(fused("sd1", path), pipe, before)


CONFIGS: dict[str, dict[str, Any]] = {
    "alpha": {"r": 4, "lora_alpha": 6},
    "rslora with patterns": {
        "r": 4,
        "lora_alpha": 6,
        "use_rslora": True,
        "rank_pattern": {"attn2.to_k": 2},
        "alpha_pattern": {"attn1.to_q": 3, "mid_block.attentions.0.transformer_blocks.0.attn2.to_v": 1},
    },
    "DoRA": {"r": 4, "lora_alpha": 2, "use_dora": True},
    "a bias": {"r": 2, "lora_alpha": 2, "lora_bias": True},
}


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("config", CONFIGS)
def test_what_diffusers_saves(
    make_pipeline: Callable[[str], Any], fused: Fused, tmp_path: Path, config: str, scale: float
) -> None:
    """Written by its own ``save_lora_weights``, with metadata."""
    pipe = make_pipeline("sd1")
    before = states(pipe)
    targets = ["to_k", "to_q", "to_v", "conv1", "proj_in", "net.2"]
    if config == "a bias":
        targets = ["conv1", "net.2"]  # layers that have one
    adapter = LoraConfig(target_modules=targets, init_lora_weights=False, **CONFIGS[config])
    pipe.unet.add_adapter(adapter)
    with torch.no_grad():
        for name, value in pipe.unet.named_parameters():
            if "lora_" in name:
                value.copy_(torch.rand(value.shape) + 0.5 if "magnitude" in name else 0.1 * torch.randn(value.shape))
    StableDiffusionPipeline.save_lora_weights(
        tmp_path / "saved",
        unet_lora_layers=get_peft_model_state_dict(pipe.unet),
        unet_lora_adapter_metadata=adapter.to_dict(),
    )
    again = make_pipeline("sd1")
    fuse_theirs(again, tmp_path / "saved" / "pytorch_lora_weights.safetensors", scale)
    assert_alike(fused("sd1", tmp_path / "saved" / "pytorch_lora_weights.safetensors", scale), again, before)


PASSED_OVER = (
    "lora_unet.{}.lora_{}.weight",  # OneTrainer
    "base_model.model.unet.{}.lora_{}.weight",  # peft of a whole pipeline
    "unet.{}.lora_{}.default.weight",  # an adapter's own name
)


def test_names_that_diffusers_passes_over(make_pipeline: Callable[[str], Any], fused: Fused, tmp_path: Path) -> None:
    """It warns of no LoRA keys, or of unexpected ones, and changes nothing; here they mean what the plain names mean."""
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    pipe = make_pipeline("sd1")
    before = states(pipe)
    down, up = halves(layers(pipe, "unet")[name], 2)
    ours = []
    for spelled in PASSED_OVER:
        halved = ("down", "up") if spelled.startswith("lora_unet") else ("A", "B")
        path = tmp_path / "passed.safetensors"
        save_file({spelled.format(name, half): value for half, value in zip(halved, (down, up), strict=True)}, path)
        fuse_theirs(pipe, path, 1.0)
        assert all(torch.equal(value, before["unet"][key]) for key, value in pipe.unet.state_dict().items()), (
            "diffusers reads it"
        )
        ours.append(fused("sd1", path))
    path = tmp_path / "plain.safetensors"
    save_file({f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}, path)
    fuse_theirs(pipe, path, 1.0)
    for each in ours:
        assert_alike(each, pipe, before)
