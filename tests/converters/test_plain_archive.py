"""The download form of targets whose bundles are small as they are: a zip that every reader of archives unpacks."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from s2p_converters.targets.protocol import PlainArchive
from s2p_converters.targets.registry import TARGETS
from s2p_runtime.archive import unpack_archive
from s2p_runtime.bundle import open_bundle
from s2p_runtime.errors import S2PError
from s2p_runtime.files import list_files

BUNDLE = Path(__file__).parents[1] / "fixtures/replay.s2pmobile"


def test_bundles_of_iphones_have_one() -> None:
    assert isinstance(TARGETS.get("coreml").archive, PlainArchive) and isinstance(TARGETS.get("coreai").archive, PlainArchive)
    assert not isinstance(TARGETS.get("executorch").archive, PlainArchive)


def test_unpacking_gives_the_same_bytes(tmp_path: Path) -> None:
    archive = tmp_path / "replay.s2pmobile.zip"
    PlainArchive().write(open_bundle(BUNDLE), archive)
    unpack_archive(archive, tmp_path / "again")
    assert list_files(tmp_path / "again") == list_files(BUNDLE)
    for name in list_files(BUNDLE):
        assert (tmp_path / "again" / name).read_bytes() == (BUNDLE / name).read_bytes(), name
    with zipfile.ZipFile(archive) as zip_file:
        assert {info.compress_type for info in zip_file.infolist()} == {zipfile.ZIP_STORED}
    PlainArchive().write(open_bundle(BUNDLE), tmp_path / "second.zip")
    assert (tmp_path / "second.zip").read_bytes() == archive.read_bytes()
    with pytest.raises(S2PError, match="exists"):
        PlainArchive().write(open_bundle(BUNDLE), archive)
