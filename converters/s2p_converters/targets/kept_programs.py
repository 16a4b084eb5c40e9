"""Programs of float components on disk, for the next conversion: text encoders and VAE are a model's, however its U-Net is quantized.

Below ``<folder>/<key>/``: the files that a target wrote, and ``kept.json`` with its manifest entry and their SHA-256. The key names
all that such a program depends on: the component's weights and configuration, its ports, the options that concern it, the sources
that lower it and the versions of all that is installed. An entry appears whole or not at all; a damaged one is made again. Where all
take more than :data:`LIMIT`, those that were not used for the longest time go.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal

from s2p_converters.targets.float_components import FloatComponent
from s2p_converters.targets.task import Task
from s2p_runtime.bundle import FileEntry, file_entries
from s2p_runtime.component import Component
from s2p_runtime.contract import Contract, read_contract, write_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.files import atomic_folder, inside, list_files, sha256_file

LIMIT = 4 << 30
"""Bytes of all entries together."""
_FORMAT: Final = "s2p-kept-program"
_VERSION: Final = 1
_MANIFEST = "kept.json"


class _Kept(Contract):
    format: Literal["s2p-kept-program"] = _FORMAT
    version: Literal[1] = _VERSION
    component: Component
    files: dict[str, FileEntry]


def take(task: Task, methods: Mapping[str, FloatComponent]) -> Component | None:
    """What :func:`lower_and_keep` wrote before, now in the task's folder; None where it did not."""
    place = _place(task, methods)
    return None if place is None else _take(place, task.folder)


def lower_and_keep(task: Task, methods: Mapping[str, FloatComponent]) -> Component:
    """:meth:`Target.lower`, and its files for the next time.

    Raises:
        S2PError: the component cannot be lowered.
    """
    before = set(list_files(task.folder))
    component = task.target.lower(task.checkpoint, task.options, task.folder, methods)
    if (place := _place(task, methods)) is not None:
        # A conversion does not fail for want of a place to keep its parts.
        with contextlib.suppress(OSError, S2PError):
            _keep(place, task.folder, set(list_files(task.folder)) - before, component)
            _tidy(place.parent, place)
    return component


def _place(task: Task, methods: Mapping[str, FloatComponent]) -> Path | None:
    """An entry's folder, made with the first program; None: such a program is not kept."""
    if task.kept is None or not task.target.keeps_programs or not next(iter(methods.values())).sources:
        return None
    return task.kept / _key(task, methods)


def _keep(place: Path, folder: Path, names: Iterable[str], component: Component) -> None:
    with atomic_folder(place, force=True) as scratch:
        for name in names:
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, scratch / name)
        write_contract(scratch / _MANIFEST, _Kept(component=component, files=file_entries(scratch, _MANIFEST)))


def _take(place: Path, folder: Path) -> Component | None:
    """An entry's component once its files are in ``folder``; None, and nothing there, where it is absent or damaged."""
    try:
        kept = read_contract(place / _MANIFEST, _Kept, _FORMAT, _VERSION)
        # Copies are what is checked: another process may remove the entry at any time.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for number, (name, entry) in enumerate(kept.files.items()):
                copy = Path(scratch, str(number))
                shutil.copyfile(inside(place, name), copy)
                if sha256_file(copy) != entry.sha256:
                    return None
            for number, name in enumerate(kept.files):
                path = inside(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                Path(scratch, str(number)).rename(path)
    except (S2PError, OSError):
        return None
    with contextlib.suppress(OSError):
        (place / _MANIFEST).touch()
    return kept.component


def _tidy(folder: Path, newest: Path) -> None:
    """Remove what was not used for the longest time, until the others are within the limit; never the newest."""
    entries = [path.parent for path in folder.glob(f"*/{_MANIFEST}") if path.parent != newest]
    entries.sort(key=lambda entry: (entry / _MANIFEST).stat().st_mtime, reverse=True)
    taken = 0
    for entry in (newest, *entries):
        taken += sum((entry / name).stat().st_size for name in list_files(entry))
        if taken > LIMIT and entry != newest:
            shutil.rmtree(entry, ignore_errors=True)


def _key(task: Task, methods: Mapping[str, FloatComponent]) -> str:
    manifest, own = task.checkpoint.manifest, next(iter(methods.values()))
    identity = {
        "version": _VERSION,
        "target": task.target.name,
        "options": task.options.beside_the_unet(),
        "component": own.name,
        "methods": {
            name: [[port.model_dump() for port in (*part.inputs, *part.outputs)], part.latents]
            for name, part in methods.items()
        },
        "files": {name: entry.sha256 for name, entry in manifest.files.items() if name.partition("/")[0] in own.sources},
        "texts": [each.model_dump(mode="json") for each in (manifest.tokenizer, manifest.conditioning) if each is not None],
        "sources": [
            _sources(package) for package in ("s2p_runtime", "s2p_converters", type(task.target).__module__.partition(".")[0])
        ],
        "installed": _installed(),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


@functools.cache
def _sources(package: str) -> str:
    """Digest of a package's Python files."""
    digest = hashlib.sha256()
    found = importlib.util.find_spec(package)
    for place in (found.submodule_search_locations or ()) if found is not None else ():
        for path in sorted(Path(place).rglob("*.py")):
            digest.update(f"{path.relative_to(place)} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


@functools.cache
def _installed() -> list[str]:
    """This Python and every distribution beside it."""
    distributions = {f"{each.name} {each.version}" for each in importlib.metadata.distributions()}
    return [platform.python_version(), platform.machine(), *sorted(distributions)]
