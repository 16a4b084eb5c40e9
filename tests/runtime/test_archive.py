"""Unpacking the download form of a bundle, against archives that the standard library wrote."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s2p_runtime.archive import unpack_archive
from s2p_runtime.bundle import MANIFEST_NAME, file_entries
from s2p_runtime.errors import S2PError
from s2p_runtime.files import list_files

BUNDLE = Path(__file__).parents[1] / "fixtures" / "ancestral.s2pmobile"
INDEX: dict[str, Any] = {"format": "s2p-archive", "version": 1, "packed": {}}
Members = dict[str, bytes]


def members() -> Members:
    return {name: (BUNDLE / name).read_bytes() for name in list_files(BUNDLE)} | {"archive.json": json.dumps(INDEX).encode()}


def written(path: Path, content: Members) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def edited(content: Members, name: str, change: Callable[[dict[str, Any]], object]) -> Members:
    document = json.loads(content[name])
    change(document)
    return content | {name: json.dumps(document).encode()}


def test_unpacked_files_are_those_of_the_bundle(tmp_path: Path) -> None:
    unpack_archive(written(tmp_path / "a.zip", members()), tmp_path / "out")
    assert list_files(tmp_path / "out") == list_files(BUNDLE)
    for name in list_files(BUNDLE):
        assert (tmp_path / "out" / name).read_bytes() == (BUNDLE / name).read_bytes(), name


def test_stretches_are_put_back_as_written_by_hand(tmp_path: Path) -> None:
    """Two's complement, the first value in the low nibble, each stretch starting on a byte."""
    program = b"head" + bytes([1, 0xFF, 7]) + b"between" + bytes([0xF8, 3]) + b"tail"
    folder = tmp_path / "bundle"
    content = members()
    for name, data in (content | {"unet.pte": program}).items():
        if name != "archive.json":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    files = {name: entry.model_dump() for name, entry in file_entries(folder).items()}
    content = edited(content, MANIFEST_NAME, lambda document: document.update(files=files))
    content = edited(content, "archive.json", lambda index: index["packed"].update({"unet.pte": [[4, 3], [14, 2]]}))
    del content["unet.pte"]
    content |= {"unet.pte.rest": b"headbetweentail", "unet.pte.nibbles": bytes([0xF1, 0x07, 0x38])}
    unpack_archive(written(tmp_path / "a.zip", content), tmp_path / "out")
    assert (tmp_path / "out" / "unet.pte").read_bytes() == program


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "archive.json",
            lambda d: d.update(version=2),
            r"archive\.json in a\.zip has format version 2, this s2p-mobile reads 1",
        ),
        ("archive.json", lambda d: d.update(version=2, packed=None, more=1), r"has format version 2"),
        ("archive.json", lambda d: d.update(format="zip"), r"not of format 's2p-archive'"),
        ("archive.json", lambda d: d.pop("packed"), r"packed: Field required"),
        ("archive.json", lambda d: d.update(more=1), r"more: "),
        ("archive.json", lambda d: d.update(packed={"unet.pte": [[0, 0]]}), r"packed\.unet\.pte\.0\.1: "),
        (MANIFEST_NAME, lambda d: d.update(version=2, files=1), r"manifest\.json in a\.zip has format version 2"),
        (MANIFEST_NAME, lambda d: d.pop("sizes"), r"manifest\.json in a\.zip is invalid \(sizes: Field required\)"),
    ],
)
def test_what_is_not_of_this_version_is_named(
    name: str, change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.zip", edited(members(), name, change))
    with pytest.raises(S2PError, match=message):
        unpack_archive(path, tmp_path / "out")
    assert [found.name for found in tmp_path.iterdir()] == ["a.zip"]
