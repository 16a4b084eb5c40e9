"""LoHa, LoKr and LoRA as peft saves them in a folder of its own, against what peft merges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model

from s2p_mobile.sources.lora import fuse, parse_lora

TARGETS = ["to_k", "conv1", "proj_in", "net.2"]
CONFIGS: dict[str, Any] = {
    "LoHa": LoHaConfig(r=3, alpha=2, target_modules=TARGETS, init_weights=False, alpha_pattern={"attn2.to_k": 5}),
    "LoHa with cores": LoHaConfig(r=3, alpha=2, target_modules=TARGETS, use_effective_conv2d=True, init_weights=False),
    "LoKr": LoKrConfig(r=2, alpha=3, target_modules=TARGETS, init_weights=False, rank_pattern={"conv1": 3}),
    "LoKr of both": LoKrConfig(r=1, alpha=3, target_modules=TARGETS, init_weights=False, decompose_both=True),
    "LoKr with cores": LoKrConfig(r=2, alpha=3, target_modules=TARGETS, init_weights=False, use_effective_conv2d=True),
    # The rank is so large that both matrices are whole: peft scales them all the same, by the rank that the settings name.
    "LoKr, whole": LoKrConfig(r=64, alpha=16, target_modules=TARGETS, init_weights=False),
    "LoRA": LoraConfig(r=3, lora_alpha=2, target_modules=TARGETS, init_lora_weights=False, use_dora=True),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_is_what_peft_merges(family_models: dict[str, Path], tmp_path: Path, name: str) -> None:
    unet = UNet2DConditionModel.from_pretrained(family_models["sd1"] / "unet")
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    model = get_peft_model(unet, CONFIGS[name])
    model.save_pretrained(tmp_path / "adapter")
    theirs = model.merge_and_unload().state_dict()
    path, scale = parse_lora(str(tmp_path / "adapter"))
    (tmp_path / "fused").mkdir()
    fuse(family_models["sd1"], tmp_path / "fused", path, scale)
    ours = UNet2DConditionModel.from_pretrained(tmp_path / "fused" / "unet").state_dict()
    # Float32 against double: products of two sums of 3 terms, each below 1.
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=2e-6, atol=2e-6, msg=lambda text, key=key: f"{key}: {text}")
    changed = {key for key, value in before.items() if not torch.equal(ours[key], value)}
    assert changed and all(any(f".{target}." in key for target in TARGETS) for key in changed)
