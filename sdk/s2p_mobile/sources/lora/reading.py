"""A LoRA file as updates of a model's layers: every key is used, or the file is refused by the key's name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from s2p_mobile.sources.lora.keys import parse_key, refuse_kinds
from s2p_mobile.sources.lora.made_for import advice
from s2p_mobile.sources.lora.settings import Settings, read_settings
from s2p_mobile.sources.lora.spellings import Layer, Spellings, spellings
from s2p_mobile.sources.lora.updates import Update
from s2p_runtime.errors import S2PError


def read_updates(path: Path, source: Path) -> dict[Layer, Update]:
    """The updates of a file, each complete.

    Args:
        source: model in diffusers layout, whose layers the file's names are looked up in.

    Raises:
        S2PError: damaged or empty, a key that is no part of an update, a kind that is not supported, layers that the model does not
            have, a half without the other, numbers that are infinite or NaN.
    """
    tensors, metadata = _load(path)
    refuse_kinds(path, list(tensors))
    settings = read_settings(path, metadata)
    places = _places(path, tensors, spellings(source), source, metadata)
    other = advice(source, metadata, tensors)
    updates: dict[Layer, Update] = {}
    for key, (layer, role) in places.items():
        _check_numbers(path, key, role, tensors[key])
        update = updates.setdefault(layer, Update(path, layer, settings.get(layer.component, Settings()), other))
        if role in update.parts and not torch.equal(update.parts[role], tensors[key]):
            problem = f"{path} changes one layer twice, as {update.keys[role]} and as {key}"
            raise S2PError(problem, "give a file with one of them", "lora")
        update.parts[role], update.keys[role] = tensors[key], key
    for update in updates.values():
        update.check()
    return updates


def _load(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as handle:
            metadata: Mapping[str, str] = handle.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise S2PError(f"LoRA file {path} cannot be read as safetensors ({error})", "get the file again", "lora") from error
    if not tensors:
        raise S2PError(f"LoRA file {path} is empty", "get the file again", "lora")
    return tensors, metadata


def _places(
    path: Path, tensors: Mapping[str, Tensor], table: Spellings, source: Path, metadata: Mapping[str, str]
) -> dict[str, tuple[Layer, str]]:
    """Key -> its layer and role."""
    places: dict[str, tuple[Layer, str]] = {}
    strange: dict[str, str] = {}
    for key in tensors:
        stem, role = parse_key(path, key)
        layers = table.get(stem, ())
        if len(layers) > 1:
            parts = " or ".join(layer.component for layer in layers)
            raise S2PError(f"{path} has {key} and does not say whether it is of {parts}", "save it with its prefix", "lora")
        if layers:
            places[key] = (layers[0], role)
        else:
            strange.setdefault(stem, key)
    if strange:
        count = "a layer" if len(strange) == 1 else f"{len(strange)} layers"
        example = next(iter(strange.values()))
        what = f"{path} changes {count} that the model does not have ({example})"
        raise S2PError(what, advice(source, metadata, tensors), "lora")
    return places


def _check_numbers(path: Path, key: str, role: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point() and role != "alpha":
        raise S2PError(f"{path} has numbers of type {tensor.dtype} in {key}", "get it in a float precision", "lora")
    if not torch.isfinite(tensor.double()).all():
        raise S2PError(f"{path} has an infinity or NaN in {key}", "get the file again", "lora")
    if role == "alpha" and tensor.numel() != 1:
        raise S2PError(f"{path} has {tensor.numel()} numbers in {key}, where one belongs", "get the file again", "lora")
