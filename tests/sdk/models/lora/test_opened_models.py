"""LoRA files against the arithmetic of the two small layers beside the original one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model

RANK = 3
UNET_LAYERS = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
    "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "down_blocks.0.attentions.0.proj_in",
    "mid_block.resnets.0.conv1",
    "down_blocks.0.downsamplers.0.conv",
    "up_blocks.0.resnets.0.time_emb_proj",
)
TEXT_LAYERS = ("encoder.layers.1.self_attn.q_proj", "encoder.layers.0.mlp.fc1")


def halves(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Random down and up of a layer, of the shapes that trainers write."""
    if isinstance(layer, nn.Conv2d):
        down = torch.randn(RANK, layer.in_channels, *layer.kernel_size)
        return down, torch.randn(layer.out_channels, RANK, 1, 1)
    assert isinstance(layer, nn.Linear)
    return torch.randn(RANK, layer.in_features), torch.randn(layer.out_features, RANK)


def beside(layer: nn.Module, down: Tensor, up: Tensor, factor: float, x: Tensor) -> Tensor:
    """The layer with its LoRA beside it, not fused."""
    if isinstance(layer, nn.Conv2d):
        return layer(x) + factor * F.conv2d(F.conv2d(x, down, None, layer.stride, layer.padding), up)
    return layer(x) + factor * F.linear(F.linear(x, down), up)


def key(layout: str, component: str, layer: str, role: str) -> str:
    if layout == "kohya":
        short = {"unet": "unet", "text_encoder": "te", "text_encoder_2": "te2"}[component]
        text = "" if component == "unet" else "text_model_"
        return (
            f"lora_{short}_{text}{layer.replace('.', '_')}.{ {'A': 'lora_down.weight', 'B': 'lora_up.weight'}.get(role, role) }"
        )
    text = "" if component == "unet" else "text_model."
    if layout == "peft" or role == "alpha":
        return f"{component}.{text}{layer}.{ {'A': 'lora_A.weight', 'B': 'lora_B.weight'}.get(role, role) }"
    return f"{component}.{text}{layer}.lora.{ {'A': 'down', 'B': 'up'}[role] }.weight"


def part(model: Model, component: str) -> nn.Module:
    return model.unet if component == "unet" else getattr(model.conditioner, component)


@torch.no_grad()
@pytest.mark.parametrize("alpha", [None, 6.0])
@pytest.mark.parametrize("layout", ["kohya", "peft", "diffusers"])
def test_fused_layers_do_what_the_lora_beside_them_does(
    family_models: dict[str, Path], tmp_path: Path, layout: str, alpha: float | None
) -> None:
    torch.manual_seed(1)
    original = Model(family_models["sd1"])
    layers: list[tuple[str, str]] = [("unet", name) for name in UNET_LAYERS]
    layers += [("text_encoder", name) for name in TEXT_LAYERS]
    file: dict[str, Tensor] = {}
    pairs = {}
    for component, name in layers:
        module = part(original, component)
        try:
            layer = module.get_submodule(name)
        except AttributeError:
            layer = module.get_submodule(f"text_model.{name}")
        pairs[component, name] = (layer, *halves(layer))
        file[key(layout, component, name, "A")], file[key(layout, component, name, "B")] = pairs[component, name][1:]
        if alpha is not None:
            file[key(layout, component, name, "alpha")] = torch.tensor(alpha)
    save_file(file, tmp_path / "style.safetensors")
    fused = open_model(family_models["sd1"], loras=[f"{tmp_path / 'style.safetensors'}:0.5"])
    assert fused.name == "sd1+style" and fused.unet_sha256 != original.unet_sha256
    factor = 0.5 * (1.0 if alpha is None else alpha / RANK)
    for (component, name), (layer, down, up) in pairs.items():
        module = part(fused, component)
        spelled = name if name in dict(module.named_modules()) else f"text_model.{name}"
        shape = (2, layer.in_channels, 6, 6) if isinstance(layer, nn.Conv2d) else (2, layer.in_features)
        x = torch.randn(shape)
        # Float32 sums over at most 9 * 64 terms, in another order.
        torch.testing.assert_close(module.get_submodule(spelled)(x), beside(layer, down, up, factor, x), rtol=1e-4, atol=1e-4)
    changed = {f"{name}.weight" for component, name in layers if component == "unet"}
    before = original.unet.state_dict()
    for name, value in fused.unet.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in changed)


@torch.no_grad()
def test_two_files_add_up_and_metadata_brings_the_alpha(family_models: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(2)
    original = Model(family_models["sdxl"])
    name = "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k"
    layer = original.unet.get_submodule(name)
    text = "encoder.layers.0.self_attn.v_proj"
    down, up = halves(layer)
    metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 12, "unet.r": RANK}), "format": "pt"}
    first = {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    save_file(first, tmp_path / "a.safetensors", metadata=metadata)
    second = {
        f"unet.{name.replace('attn2.to_k', 'attn2.processor.to_k')}_lora.down.weight": down,
        f"unet.{name.replace('attn2.to_k', 'attn2.processor.to_k')}_lora.up.weight": up,
    }
    width = original.conditioner.text_encoder_2.config.hidden_size
    second |= {key("kohya", "text_encoder_2", text, "A"): torch.randn(RANK, width)}
    second |= {key("kohya", "text_encoder_2", text, "B"): torch.randn(width, RANK)}
    save_file(second, tmp_path / "b.safetensors")
    fused = open_model(family_models["sdxl"], loras=[str(tmp_path / "a.safetensors"), f"{tmp_path / 'b.safetensors'}:-2"])
    expected = layer.weight + (12 / RANK - 2) * torch.einsum("or,ri->oi", up, down)
    torch.testing.assert_close(fused.unet.get_submodule(name).weight, expected, rtol=1e-5, atol=1e-5)
    states = [model.conditioner.text_encoder_2.state_dict() for model in (original, fused)]
    different = [name for name in states[0] if not torch.equal(states[0][name], states[1][name])]
    assert len(different) == 1 and different[0].endswith(f"{text}.weight")
