"""A model in one file: which kind of file it is, by its content, and the tensors in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from s2p_mobile.sources.gguf_file import read_gguf
from s2p_mobile.sources.unpickle import PICKLES, read_pickle, refuse_pickle, tell_of_pickle
from s2p_runtime.errors import S2PError

Kind = Literal["safetensors", "pickle", "gguf"]
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class WeightFile:
    """What a file holds.

    Attributes:
        tensors: by their keys. Those of a safetensors file are read from the disk when they are used.
        metadata: texts of a safetensors header; others have none.
    """

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


def file_kind(path: Path) -> Kind:
    """By the first bytes; the name decides only where these say nothing.

    Raises:
        S2PError: a file that stands for a large one that was not downloaded.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(32)
    if head.startswith(_LFS_POINTER):
        raise S2PError(f"{path} is a Git LFS pointer, not the model", "download the file itself: git lfs pull")
    if head.startswith(b"GGUF"):
        return "gguf"
    # A safetensors file begins with a length of eight bytes, whose lowest may be those of a pickle; then comes JSON.
    if head[8:9] != b"{" and (head.startswith((b"PK\x03\x04", b"\x80")) or path.suffix.lower() in PICKLES):
        return "pickle"
    return "gguf" if path.suffix.lower() == ".gguf" else "safetensors"


def read_weight_file(path: Path, allow_pickle: bool) -> WeightFile:
    """The tensors of a file of any kind.

    Args:
        allow_pickle: read a pickle, weights only, and say so in a note.

    Raises:
        S2PError: damaged, or a pickle that is not allowed.
    """
    try:
        kind = file_kind(path)
        if kind == "gguf":
            return WeightFile(read_gguf(path))
        if kind == "safetensors":
            # The library holds every length and place in the header against the file's size before anything is read.
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
            return WeightFile(load_file(path), metadata)
    except (OSError, SafetensorError) as error:
        raise S2PError(f"{path} cannot be read as safetensors ({error})", "get the file again") from error
    if not allow_pickle:
        raise refuse_pickle(path, f"{path} is a pickle")
    tensors = read_pickle(path)
    tell_of_pickle(path)
    return WeightFile(tensors)
