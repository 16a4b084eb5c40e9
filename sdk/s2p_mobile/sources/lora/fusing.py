"""A copy of a model with an update file fused into its weights, one tensor in memory at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from s2p_mobile.sources.lora.reading import read_updates
from s2p_mobile.sources.lora.updates import Update, by_name
from s2p_runtime.errors import S2PError

_FLOAT32 = "F32"
"""As the format calls it."""


def fuse(source: Path, folder: Path, path: Path, scale: float) -> None:
    """Write a copy of a model with one file fused: changed components as files (changed tensors in float32), all else as links.

    Several files are fused one after the other, each onto the result of the one before.

    Args:
        source: model in diffusers layout.
        folder: exists and is empty.
        path: LoRA, LoHa, LoKr, each with DoRA's magnitudes or without, or full differences (``.safetensors``).
        scale: of the change.

    Raises:
        S2PError: see :func:`~s2p_mobile.sources.lora.reading.read_updates`; shapes that do not fit (named); weights that overflow.
    """
    updates = read_updates(path, source)
    changed = {layer.component for layer in updates}
    for entry in sorted(source.iterdir()):
        if entry.name not in changed:
            (folder / entry.name).symlink_to(entry.resolve(), target_is_directory=entry.is_dir())
            continue
        (folder / entry.name).mkdir()
        changes = by_name(updates, entry.name)
        for file in sorted(entry.iterdir()):
            target = folder / entry.name / file.name
            if file.suffix == ".safetensors":
                _rewrite(file, target, changes, scale)
            else:
                target.symlink_to(file.resolve(), target_is_directory=file.is_dir())


def _rewrite(source: Path, target: Path, changes: Mapping[str, tuple[Update, bool]], scale: float) -> None:
    """Write a weight file again with its changes.

    Tensor by tensor: safetensors' own writer wants all of them at once, which of a whole SDXL are ten gigabytes.
    """
    try:
        with safe_open(source, framework="pt") as handle:
            slices = {key: handle.get_slice(key) for key in handle.keys()}  # noqa: SIM118 (not a mapping)
            widths = {key: handle.get_tensor(key).element_size() for key in slices}
            layout = {key: (_FLOAT32 if key in changes else each.get_dtype(), each.get_shape()) for key, each in slices.items()}
            sizes = {key: 4 if key in changes else widths[key] for key in slices}
            _write(target, layout, sizes, lambda key: _tensor(handle.get_tensor(key), changes.get(key), scale))
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk is full, or the like: no fault of the file
        raise S2PError(f"{source} cannot be read as safetensors ({error})", "get the file again") from error


def _tensor(old: Tensor, change: tuple[Update, bool] | None, scale: float) -> Tensor:
    if change is None:
        return old
    update, is_bias = change
    return update.bias(old, scale) if is_bias else update.weight(old, scale)


def _write(
    target: Path, layout: Mapping[str, tuple[str, list[int]]], widths: Mapping[str, int], tensor: Callable[[str], Tensor]
) -> None:
    """A safetensors file (format: its README) whose tensors are asked for one after the other; it is there whole or not at all.

    Args:
        layout: name -> dtype as the format calls it, and shape.
        widths: name -> bytes of an element; wide ones go first, so that all are aligned.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    order = sorted(layout, key=lambda name: (-widths[name], name))
    end = 0
    for name in order:
        dtype, shape = layout[name]
        begin, end = end, end + widths[name] * torch.Size(shape).numel()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = target.with_name(f".{target.name}.partial")
    with partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(tensor(name).contiguous().flatten().view(torch.uint8).numpy().data)
    os.replace(partial, target)
