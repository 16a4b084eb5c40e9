"""Unpacks the download form of a bundle, ``NAME.s2pmobile.zip``.

The zip holds the bundle's files under their own names and ``archive.json``. A file named in its ``packed`` is stored as two
members: ``FILE.rest`` (the file without some stretches) and ``FILE.nibbles`` (those stretches, 4-bit two's complement, first
value in the low nibble, each stretch starting on a byte). ``packed[FILE]`` lists ``[offset, length]`` of each stretch in the
restored file, where one byte holds one value, ascending.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from s2p_runtime.bundle import BUNDLE_FORMAT, BUNDLE_VERSION, MANIFEST_NAME, BundleManifest, open_bundle
from s2p_runtime.contract import Contract, parse_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.files import atomic_folder, inside

ARCHIVE_FORMAT: Final = "s2p-archive"
ARCHIVE_VERSION: Final = 1
INDEX_NAME = "archive.json"
REST_SUFFIX = ".rest"
NIBBLES_SUFFIX = ".nibbles"
_INDEX_LIMIT = 16 << 20
"""Largest index or manifest that is read, bytes."""


class ArchiveIndex(Contract):
    """``archive.json``."""

    format: Literal["s2p-archive"] = ARCHIVE_FORMAT
    version: Literal[1] = ARCHIVE_VERSION
    packed: dict[str, tuple[tuple[NonNegativeInt, PositiveInt], ...]] = Field(
        description="file -> stretches of 4-bit weights, (offset, length) in the restored file, ascending"
    )


def unpack_archive(path: Path, folder: Path, *, force: bool = False) -> None:
    """Restore a bundle and check it; ``folder`` appears only when everything is right.

    Raises:
        S2PError: no archive, a newer version, a member missing, altered or larger than the manifest says, or ``folder``
            exists and ``force`` is false.
    """
    try:
        with zipfile.ZipFile(path) as archive, atomic_folder(folder, force=force) as scratch:
            _unpack(archive, scratch, path.name)
            open_bundle(scratch)
    except FileNotFoundError:
        raise S2PError(f"{path} does not exist", "give an archive made by s2p-mobile convert `archive`", "archive") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise S2PError(f"{path} is damaged or no archive ({error})", "get it again") from error


def _member(archive: zipfile.ZipFile, name: str, limit: int, archive_name: str) -> bytes:
    """A member of at most ``limit`` bytes."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise S2PError(f"{archive_name} lacks {name}", "get it again") from None
    if info.file_size > limit:
        raise S2PError(f"{name} in {archive_name} is larger than its manifest says", "get it again")
    with archive.open(info) as member:
        data = member.read(limit + 1)
    if len(data) > limit:
        raise S2PError(f"{name} in {archive_name} is larger than its manifest says", "get it again")
    return data


def _unpack(archive: zipfile.ZipFile, folder: Path, archive_name: str) -> None:
    text = _member(archive, INDEX_NAME, _INDEX_LIMIT, archive_name)
    index = parse_contract(text, f"{INDEX_NAME} in {archive_name}", ArchiveIndex, ARCHIVE_FORMAT, ARCHIVE_VERSION)
    manifest_bytes = _member(archive, MANIFEST_NAME, _INDEX_LIMIT, archive_name)
    manifest = parse_contract(
        manifest_bytes, f"{MANIFEST_NAME} in {archive_name}", BundleManifest, BUNDLE_FORMAT, BUNDLE_VERSION
    )
    (folder / MANIFEST_NAME).write_bytes(manifest_bytes)
    for name, entry in manifest.files.items():
        target = inside(folder, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in index.packed:
            regions = index.packed[name]
            rest = _member(archive, name + REST_SUFFIX, entry.bytes, archive_name)
            nibbles = _member(archive, name + NIBBLES_SUFFIX, entry.bytes, archive_name)
            target.write_bytes(_restore(rest, nibbles, regions, entry.bytes, archive_name))
        else:
            target.write_bytes(_member(archive, name, entry.bytes, archive_name))


def _restore(rest: bytes, nibbles: bytes, regions: tuple[tuple[int, int], ...], size: int, archive_name: str) -> bytes:
    """Put the stretches back between the parts of ``rest``."""
    expected = len(rest) + sum(length for _, length in regions)
    if expected != size or len(nibbles) != sum((length + 1) // 2 for _, length in regions):
        raise S2PError(f"{archive_name} has packed weights of the wrong size", "get it again")
    parts, taken, used, position = [], 0, 0, 0
    for offset, length in regions:
        if offset < position or offset - position > len(rest) - taken:
            raise S2PError(f"{archive_name} has packed weights in the wrong order", "get it again")
        parts.append(rest[taken : taken + offset - position])
        taken += offset - position
        packed = np.frombuffer(nibbles, np.uint8, (length + 1) // 2, used)
        used += packed.size
        values = np.empty(2 * packed.size, np.int8)
        # Shifting left first, then right with the sign, extends four bits to eight.
        values[0::2] = (packed << np.uint8(4)).astype(np.int8) >> 4
        values[1::2] = packed.astype(np.int8) >> 4
        parts.append(values[:length].tobytes())
        position = offset + length
    parts.append(rest[taken:])
    return b"".join(parts)
