"""The state of a training run: a folder of safetensors files, and a header that names those that count.

Several files, because a library that writes one holds its bytes a second time: at the size of SD v1-4 a state is 15 GiB. New files
lie in a folder of their own until the header is replaced, so there is a whole state at every moment.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from s2p_runtime.contract import Contract, check_version
from s2p_runtime.errors import S2PError
from s2p_runtime.files import atomic_file, inside

_HEADER_NAME = "state.json"
_VERSION = 2
_FILE_BYTES = 256 << 20
"""Tensors go into one file until it is so large."""


class _Header(Contract):
    """Of a state.

    Attributes:
        folder: of the files, below the state's.
        files: file -> tensors in it.
    """

    version: int = Field(default=_VERSION)
    fingerprint: str
    iteration: int
    weight_bits: dict[str, int]
    folder: str
    files: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class TrainingState:
    """
    Attributes:
        iteration: optimizer steps done.
        weight_bits: layer -> width, in the order in which they run.
        tensors: everything that changes or was searched for, by name.
    """

    iteration: int
    weight_bits: dict[str, int]
    tensors: Mapping[str, Tensor]

    def part(self, prefix: str) -> Mapping[str, Tensor]:
        """Tensors below ``prefix/``, without it."""
        return _Part(self.tensors, f"{prefix}/")


class _Part(Mapping[str, Tensor]):
    """The tensors whose names begin alike."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        self.tensors, self.prefix = tensors, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.prefix + name]

    def __contains__(self, name: object) -> bool:
        return f"{self.prefix}{name}" in self.tensors

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self.prefix) for name in self.tensors if name.startswith(self.prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Stored(Mapping[str, Tensor]):
    """Tensors of a state's files, read when they are asked for."""

    def __init__(self, folder: Path, files: Mapping[str, tuple[str, ...]]) -> None:
        self.folder = folder
        self.places = {name: file for file, names in files.items() for name in names}

    def __getitem__(self, name: str) -> Tensor:
        with _readable(self.folder), safe_open(self.folder / self.places[name], "pt") as handle:
            found: Tensor = handle.get_tensor(name)
            return found

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def save_state(folder: Path, state: TrainingState, identity: str) -> None:
    """Write a state; the one that is there goes when the new one is complete.

    Raises:
        S2PError: no space left, no permission.
    """
    part = secrets.token_hex(4)
    files: dict[str, tuple[str, ...]] = {}
    for names in _portions(state.tensors):
        file = f"{len(files):04d}.safetensors"
        tensors = {name: state.tensors[name].detach().cpu().contiguous() for name in names}
        with atomic_file(folder / part / file) as scratch:
            # Not save_file: that reports a full disk as a SafetensorError without an errno.
            scratch.write_bytes(save(tensors))
        files[file] = tuple(names)
    header = _Header(fingerprint=identity, iteration=state.iteration, weight_bits=state.weight_bits, folder=part, files=files)
    with atomic_file(folder / _HEADER_NAME) as scratch:
        scratch.write_text(header.model_dump_json(), encoding="utf-8")
    for old in folder.iterdir():
        if old.is_dir() and old.name != part:
            shutil.rmtree(old, ignore_errors=True)


def _portions(tensors: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """Names in groups whose tensors make one file."""
    names: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        if names and size + tensor.nbytes > _FILE_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += tensor.nbytes
    if names:
        yield names


def load_state(folder: Path, identity: str) -> TrainingState:
    """Open a state; its tensors are read when they are asked for.

    Raises:
        S2PError: damaged, of a newer version, or of a run with other settings.
    """
    with _readable(folder):
        document = json.loads((folder / _HEADER_NAME).read_text(encoding="utf-8"))
        check_version(document["version"], str(folder), _VERSION)
        header = _Header.model_validate(document)
        files = inside(folder, header.folder)
        for file in header.files:
            with safe_open(inside(files, file), "pt"):
                pass
    if header.fingerprint != identity:
        raise S2PError(
            f"{folder} is of another model, plan, recipe, prompts, guidance or seed",
            "repeat those, or begin again with `force`",
            "force",
        )
    return TrainingState(header.iteration, header.weight_bits, _Stored(files, header.files))


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Damage in one line."""
    try:
        yield
    except (SafetensorError, KeyError, ValueError, TypeError, OSError, ValidationError) as error:
        if isinstance(error, S2PError):
            raise
        reason = " ".join(str(error).split())
        raise S2PError(f"{folder} is not a training state ({reason})", "delete it to begin again") from error


def restore(targets: Mapping[str, Tensor], saved: Mapping[str, Tensor], path: Path) -> None:
    """Copy saved tensors over the live ones of the same names.

    Raises:
        S2PError: a tensor is missing or has another shape.
    """
    with torch.no_grad():
        for name, target in targets.items():
            value = saved.get(name)
            if value is None or value.shape != target.shape:
                raise S2PError(f"{path} lacks a valid {name}", "delete it to begin again")
            target.copy_(value)
