"""Kinds that neither diffusers nor peft reads from files, against the papers: loops over numbers and layers in a row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from s2p_mobile.sources.lora import fusing
from s2p_mobile.sources.lora.updates import Update

State = dict[str, Tensor]
Fused = Callable[..., dict[str, State]]
CLOSE = {"rtol": 1e-6, "atol": 1e-6}
"""Double rounded to float32 once, on either side: values below 8."""
LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
CONV = "mid_block.resnets.0.conv1"
KOHYA = {name: "lora_unet_" + name.replace(".", "_") for name in (LINEAR, CONV)}


@pytest.fixture()
def before(family_models: dict[str, Path]) -> State:
    return UNet2DConditionModel.from_pretrained(family_models["sd1"] / "unet").state_dict()


def random(**shapes: tuple[int, ...]) -> State:
    return {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}


def entries(name: str, parts: State) -> State:
    return {f"{KOHYA[name]}.{role}{'.weight' if role.startswith('lora_') else ''}": part for role, part in parts.items()}


def product(a: Tensor, b: Tensor) -> np.ndarray:
    """Sum of the outer products of columns and rows."""
    pairs = zip(a.T.double().numpy(), b.double().numpy(), strict=True)
    return sum((np.multiply.outer(column, row) for column, row in pairs), np.zeros((a.shape[0], b.shape[1])))


def loha(parts: State) -> np.ndarray:
    return product(parts["hada_w1_a"], parts["hada_w1_b"]) * product(parts["hada_w2_a"], parts["hada_w2_b"])


def blocks(small: np.ndarray, large: np.ndarray) -> np.ndarray:
    """Kronecker product [a, b] x [c, d, ...] -> [ac, bd, ...]: a block of ``large`` for each number of ``small``."""
    return np.concatenate([np.concatenate([number * large for number in row], axis=1) for row in small])


def magnified(weight: np.ndarray, magnitude: np.ndarray, columns: bool) -> np.ndarray:
    """DoRA, row by row or column by column."""
    turned = np.array(weight.swapaxes(0, 1) if columns else weight)
    for index, length in enumerate(magnitude.reshape(-1)):
        turned[index] *= length / np.sqrt((turned[index] ** 2).sum())
    return turned.swapaxes(0, 1) if columns else turned


def test_a_tucker_decomposed_convolution_is_three_in_a_row(fused: Fused, before: State) -> None:
    old, bias = before[f"{CONV}.weight"], before[f"{CONV}.bias"]
    parts = random(lora_down=(3, old.shape[1], 1, 1), lora_mid=(3, 3, 3, 3), lora_up=(old.shape[0], 3, 1, 1))
    file = entries(CONV, parts) | {f"{KOHYA[CONV]}.alpha": torch.tensor(6.0)}
    ours = fused("sd1", file, 0.5)["unet"]
    x = torch.randn(1, old.shape[1], 5, 5, dtype=torch.float64)
    down, middle, up = (parts[name].double() for name in ("lora_down", "lora_mid", "lora_up"))
    beside = F.conv2d(F.conv2d(F.conv2d(x, down), middle, padding=1), up)
    expected = F.conv2d(x, old.double(), bias.double(), padding=1) + 0.5 * 6 / 3 * beside
    actual = F.conv2d(x, ours[f"{CONV}.weight"].double(), bias.double(), padding=1)
    # Weights rounded to float32, 576 products each below 4.
    torch.testing.assert_close(actual, expected, rtol=0, atol=576 * 4 * 2**-24)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr"])
def test_dora_over_every_kind(fused: Fused, before: State, kind: str, columns: bool) -> None:
    old = before[f"{LINEAR}.weight"].double().numpy()
    rows, width = old.shape
    if kind == "LoRA":
        parts = random(lora_up=(rows, 2), lora_down=(2, width))
        change = product(parts["lora_up"], parts["lora_down"]) / 2
    elif kind == "LoHa":
        parts = random(hada_w1_a=(rows, 2), hada_w1_b=(2, width), hada_w2_a=(rows, 2), hada_w2_b=(2, width))
        change = loha(parts) / 2
    else:
        parts = random(lokr_w1=(4, 2), lokr_w2_a=(rows // 4, 2), lokr_w2_b=(2, width // 2))
        change = blocks(parts["lokr_w1"].double().numpy(), product(parts["lokr_w2_a"], parts["lokr_w2_b"])) / 2
    magnitude = torch.rand((1, width) if columns else (rows, 1)) + 0.5
    file = entries(LINEAR, parts) | entries(LINEAR, {"alpha": torch.tensor(1.0), "dora_scale": magnitude})
    expected = magnified(old + 0.25 * change, magnitude.numpy(), columns)
    ours = fused("sd1", file, 0.25)["unet"][f"{LINEAR}.weight"]
    torch.testing.assert_close(ours, torch.from_numpy(expected).float(), **CLOSE)


@pytest.mark.parametrize("columns", [False, True])
def test_dora_of_a_convolution(fused: Fused, before: State, columns: bool) -> None:
    old = before[f"{CONV}.weight"].double().numpy()
    parts = random(lora_up=(old.shape[0], 2, 1, 1), lora_down=(2, *old.shape[1:]))
    change = product(parts["lora_up"].flatten(1), parts["lora_down"].flatten(1)).reshape(old.shape)
    magnitude = torch.rand((1, old.shape[1], 1, 1) if columns else (old.shape[0], 1, 1, 1)) + 0.5
    ours = fused("sd1", entries(CONV, parts | {"dora_scale": magnitude}))["unet"][f"{CONV}.weight"]
    expected = magnified(old + change, magnitude.numpy(), columns)
    torch.testing.assert_close(ours, torch.from_numpy(expected).float(), **CLOSE)


def test_lokr_of_two_whole_matrices_is_not_scaled_by_alpha(fused: Fused, before: State) -> None:
    """As LyCORIS and ComfyUI have it: there is no rank."""
    old = before[f"{CONV}.weight"]
    parts = random(lokr_w1=(4, 2), lokr_w2=(old.shape[0] // 4, old.shape[1] // 2, 3, 3))
    file = entries(CONV, parts) | entries(CONV, {"alpha": torch.tensor(64.0)})
    expected = old.double().numpy() + 0.5 * blocks(*(parts[name].double().numpy() for name in ("lokr_w1", "lokr_w2")))
    ours = fused("sd1", file, 0.5)["unet"][f"{CONV}.weight"]
    torch.testing.assert_close(ours, torch.from_numpy(expected).float(), **CLOSE)


def test_differences_of_weights_biases_and_norms(fused: Fused, before: State) -> None:
    norm = "mid_block.resnets.0.norm1"
    named = {f"{LINEAR}.weight": "diff", f"{CONV}.weight": "diff", f"{CONV}.bias": "diff_b"}
    file, expected = {}, dict(before)
    for name, role in (*named.items(), (f"{norm}.weight", "w_norm"), (f"{norm}.bias", "b_norm")):
        change = torch.randn(before[name].shape).bfloat16()
        file[f"lora_unet_{name.rpartition('.')[0].replace('.', '_')}.{role}"] = change
        expected[name] = (before[name].double() - 1.5 * change.double()).float()
    ours = fused("sd1", file, -1.5)["unet"]
    assert all(torch.equal(ours[name], value) for name, value in expected.items())


def test_one_changed_tensor_is_in_memory_at_a_time(
    family_models: dict[str, Path], tmp_path: Path, before: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A U-Net of ten gigabytes is fused in the memory of its largest layer."""
    import weakref

    alive: list[weakref.ref[Tensor]] = []
    weight = Update.weight

    def watched(self: Update, old: Tensor, scale: float) -> Tensor:
        assert not [each for each in alive if each() is not None], "the one before is still there"
        new = weight(self, old, scale)
        alive.append(weakref.ref(new))
        return new

    monkeypatch.setattr(Update, "weight", watched)
    names = [name for name in before if name.endswith("to_k.weight")]
    file = {f"unet.{name.removesuffix('.weight')}.diff": before[name].clone() for name in names}
    save_file(file, tmp_path / "a.safetensors")
    (tmp_path / "out").mkdir()
    fusing.fuse(family_models["sd1"], tmp_path / "out", tmp_path / "a.safetensors", 1.0)
    assert len(alive) == len(names) > 2
    ours = UNet2DConditionModel.from_pretrained(tmp_path / "out" / "unet").state_dict()
    assert all(torch.equal(ours[name], 2 * before[name] if name in names else before[name]) for name in before)
