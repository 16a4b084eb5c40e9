"""LoRA files fused into a model's weights: ``W + scale * alpha / r * B A`` (Hu et al. 2021, arXiv 2106.09685, section 4.1)."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from s2p_runtime.errors import S2PError

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
_KOHYA = re.compile(r"lora_(unet|te|te1|te2)_(.+)\.(lora_down\.weight|lora_up\.weight|alpha)")
_KOHYA_COMPONENT = {"unet": "unet", "te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2"}
# peft (lora_A, lora_B), and diffusers before it (lora.down, lora_linear_layer.down, processor.to_q_lora.down).
_DIFFUSERS = re.compile(
    r"(?:(unet|text_encoder|text_encoder_2)|base_model\.model)\.(.+?)"
    r"(?:\.lora_(A|B)(?:\.default)?\.weight|(?:\.lora|\.lora_linear_layer|_lora)\.(down|up)\.weight|\.(alpha))"
)
_ROLE = {"A": "down", "B": "up", "lora_down.weight": "down", "lora_up.weight": "up"}


@dataclass
class _Update:
    """What a file says about one layer."""

    key: str
    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None

    def delta(self, weight: Tensor, scale: float, path: Path) -> Tensor:
        """The change of a weight, float64 of its shape."""
        if self.down is None or self.up is None:
            raise S2PError(f"{path} has only one half of {self.key}", "get the file again")
        down, up = self.down.double().flatten(1), self.up.double().flatten(1)
        rank = down.shape[0]
        product = up @ down if up.shape[1] == rank else None
        if product is None or product.numel() != weight.numel() or product.shape[0] != weight.shape[0]:
            shapes = f"{list(self.up.shape)} x {list(self.down.shape)}"
            raise S2PError(f"{path}: {self.key} of shape {shapes} does not fit {list(weight.shape)}", "it is for another model")
        alpha = rank if self.alpha is None else self.alpha
        return product.reshape(weight.shape) * (scale * alpha / rank)


def parse_lora(text: str) -> tuple[Path, float]:
    """``FILE`` or ``FILE:scale``.

    Raises:
        S2PError: no such file, or a scale that is no finite number.
    """
    head, separator, tail = text.rpartition(":")
    if separator and not Path(text).is_file():
        try:
            path, scale = Path(head), float(tail)
        except ValueError:
            path, scale = Path(text), 1.0
    else:
        path, scale = Path(text), 1.0
    if not path.is_file():
        raise S2PError(f"LoRA file {path} does not exist", "give FILE or FILE:scale")
    if not abs(scale) < float("inf"):
        raise S2PError(f"LoRA scale {tail} of {path} is not a finite number", f"give FILE:scale, for example {path.name}:0.8")
    return path, scale


def fuse(source: Path, folder: Path, path: Path, scale: float) -> None:
    """Write a copy of a model with one LoRA fused: changed components as files (changed weights in float32), others as links.

    Args:
        source: model in diffusers layout.
        folder: exists and is empty.

    Raises:
        S2PError: damaged file, an entry that is no plain LoRA, or a layer that the model does not have (named).
    """
    updates = _read(path, _layers(source))
    for entry in sorted(source.iterdir()):
        if entry.name not in updates:
            (folder / entry.name).symlink_to(entry.resolve(), target_is_directory=entry.is_dir())
            continue
        (folder / entry.name).mkdir()
        for file in sorted(entry.iterdir()):
            if file.suffix == ".safetensors":
                _fuse_file(file, folder / entry.name / file.name, updates[entry.name], scale, path)
            else:
                shutil.copyfile(file, folder / entry.name / file.name)


def _layers(source: Path) -> dict[str, dict[str, str]]:
    """Per component: every name by which a file may call a layer -> name of its weight."""
    layers: dict[str, dict[str, str]] = {}
    for component in COMPONENTS:
        if not (source / component).is_dir():
            continue
        names = layers[component] = {}
        for file in sorted((source / component).glob("*.safetensors")):
            with safe_open(file, framework="pt") as handle:
                weights = [key for key in handle.keys() if key.endswith(".weight")]  # noqa: SIM118 (not a mapping)
            for weight in weights:
                name = weight.removesuffix(".weight")
                # Text encoders are saved with and without the model's own prefix.
                spellings = {name} if component == "unet" else {name, f"text_model.{name}", name.removeprefix("text_model.")}
                for spelling in spellings:
                    names[spelling] = names[spelling.replace(".", "_")] = weight
    return layers


def _read(path: Path, layers: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, _Update]]:
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as handle:
            alphas = _adapter_alphas(path, handle.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise S2PError(f"LoRA file {path} cannot be read as safetensors ({error})", "get the file again") from error
    updates: dict[str, dict[str, _Update]] = {}
    for key, tensor in tensors.items():
        component, name, role = _parse_key(path, key)
        weight = layers.get(component, {}).get(name)
        if weight is None:
            raise S2PError(f"{path} changes {key}, which the model's {component} does not have", "it is for another model")
        if not torch.isfinite(tensor).all():
            raise S2PError(f"{path} has an infinity or NaN in {key}", "get the file again")
        update = updates.setdefault(component, {}).setdefault(weight, _Update(key, alpha=alphas.get(component)))
        if role == "alpha":
            update.alpha = float(tensor)
        else:
            setattr(update, role, tensor)
    if not updates:
        raise S2PError(f"LoRA file {path} is empty", "get the file again")
    return updates


def _parse_key(path: Path, key: str) -> tuple[str, str, str]:
    """Component, layer as the file spells it, and role: down, up or alpha."""
    if match := _KOHYA.fullmatch(key):
        return _KOHYA_COMPONENT[match[1]], match[2], _ROLE.get(match[3], "alpha")
    if match := _DIFFUSERS.fullmatch(key):
        name = match[2].replace(".processor.", ".")
        if match[4] and name.endswith(".to_out"):
            name += ".0"
        return match[1] or "unet", name, _ROLE[match[3]] if match[3] else match[4] or "alpha"
    raise S2PError(f"{path} has {key}, which is no part of a plain LoRA", "use a LoRA in peft, diffusers or kohya layout")


def _adapter_alphas(path: Path, metadata: Mapping[str, str]) -> dict[str, float]:
    """``lora_alpha`` per component, which diffusers writes into the metadata when it differs from the rank."""
    try:
        settings = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        for component in COMPONENTS:
            for option in ("alpha_pattern", "use_rslora", "use_dora"):
                if settings.get(f"{component}.{option}"):
                    raise S2PError(f"{path} uses {option}, which is not supported", "save the LoRA with one alpha")
        return {c: float(settings[f"{c}.lora_alpha"]) for c in COMPONENTS if f"{c}.lora_alpha" in settings}
    except (ValueError, AttributeError, TypeError) as error:
        raise S2PError(f"{path} has damaged adapter metadata ({error})", "get the file again") from error


def _fuse_file(source: Path, target: Path, updates: Mapping[str, _Update], scale: float, path: Path) -> None:
    tensors = load_file(source)
    for name, update in updates.items():
        if name in tensors:
            weight = tensors[name]
            tensors[name] = (weight.double() + update.delta(weight, scale, path)).float()
    save_file(tensors, target, metadata={"format": "pt"})
