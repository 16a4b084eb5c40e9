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
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.float_components import FloatComponent
from s2p_converters.targets.options import TargetOptions
from s2p_converters.targets.protocol import Target
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
    sha256: dict[str, str]


class KeptPrograms:
    """What earlier conversions wrote.

    Attributes:
        used: titles of the components that were not lowered again.
    """

    def __init__(self, folder: Path | None) -> None:
        """
        Args:
            folder: of the entries, made when the first is written; None keeps none.
        """
        self.folder = folder
        self.used: list[str] = []

    def lower(
        self,
        target: Target[Any],
        checkpoint: Checkpoint,
        options: TargetOptions,
        folder: Path,
        methods: Mapping[str, FloatComponent],
    ) -> Component:
        """As :meth:`Target.lower`, which is called where nothing is kept.

        Raises:
            S2PError: the component cannot be lowered.
        """
        own = next(iter(methods.values()))
        if self.folder is None or not target.keeps_programs or not own.sources:
            return target.lower(checkpoint, options, folder, methods)
        place = self.folder / _key(target, checkpoint, options, methods)
        found = _copied(place, folder)
        if found is not None:
            self.used.append(own.title)
            return found
        before = set(list_files(folder))
        component = target.lower(checkpoint, options, folder, methods)
        # A conversion does not fail for want of a place to keep its parts.
        with contextlib.suppress(OSError, S2PError):
            _keep(place, folder, sorted(set(list_files(folder)) - before), component)
            _tidy(self.folder, place)
        return component


def _keep(place: Path, folder: Path, names: list[str], component: Component) -> None:
    with atomic_folder(place, force=True) as scratch:
        for name in names:
            _copy(folder / name, scratch / name)
        write_contract(
            scratch / _MANIFEST, _Kept(component=component, sha256={name: sha256_file(scratch / name) for name in names})
        )


def _copied(place: Path, folder: Path) -> Component | None:
    """An entry's component once its files are in ``folder``; None where it is absent or damaged."""
    try:
        kept = read_contract(place / _MANIFEST, _Kept, _FORMAT, _VERSION)
        for name, checksum in kept.sha256.items():
            if sha256_file(inside(place, name)) != checksum:
                return None
        for name in kept.sha256:
            _copy(place / name, inside(folder, name))
    except (S2PError, OSError):
        return None
    with contextlib.suppress(OSError):
        (place / _MANIFEST).touch()
    return kept.component


def _copy(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, path)


def _tidy(folder: Path, newest: Path) -> None:
    """Remove what was not used for the longest time, until the others are within the limit; never the newest."""
    entries = [path.parent for path in folder.glob(f"*/{_MANIFEST}") if path.parent != newest]
    entries.sort(key=lambda entry: (entry / _MANIFEST).stat().st_mtime, reverse=True)
    taken = 0
    for entry in (newest, *entries):
        taken += sum((entry / name).stat().st_size for name in list_files(entry))
        if taken > LIMIT and entry != newest:
            shutil.rmtree(entry, ignore_errors=True)


def _key(target: Target[Any], checkpoint: Checkpoint, options: TargetOptions, methods: Mapping[str, FloatComponent]) -> str:
    manifest, own = checkpoint.manifest, next(iter(methods.values()))
    identity = {
        "version": _VERSION,
        "target": target.name,
        "options": options.beside_the_unet(),
        "component": own.name,
        "methods": {
            name: [[port.model_dump() for port in (*part.inputs, *part.outputs)], part.latents]
            for name, part in methods.items()
        },
        "files": {name: entry.sha256 for name, entry in manifest.files.items() if name.partition("/")[0] in own.sources},
        "texts": [each.model_dump(mode="json") for each in (manifest.tokenizer, manifest.conditioning) if each is not None],
        "sources": [_sources(package) for package in sorted({"s2p_runtime", "s2p_converters", _package(target)})],
        "installed": _installed(),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def _package(target: Target[Any]) -> str:
    return type(target).__module__.partition(".")[0]


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
