"""The download form: smaller, and the same bytes again."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path

import pytest

from s2p_converters.targets.executorch.archive import split_program, write_archive
from s2p_runtime.archive import unpack_archive
from s2p_runtime.bundle import open_bundle
from s2p_runtime.errors import S2PError
from s2p_runtime.files import list_files


@pytest.fixture(scope="module")
def archive(executorch_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archives") / "small.s2pmobile.zip"
    write_archive(open_bundle(executorch_bundle), path)
    return path


def test_unpacking_gives_the_same_bytes(executorch_bundle: Path, archive: Path, tmp_path: Path) -> None:
    unpack_archive(archive, tmp_path / "again")
    assert list_files(tmp_path / "again") == list_files(executorch_bundle)
    for name in list_files(executorch_bundle):
        assert (tmp_path / "again" / name).read_bytes() == (executorch_bundle / name).read_bytes(), name


def test_the_same_bundle_gives_the_same_archive(executorch_bundle: Path, archive: Path, tmp_path: Path) -> None:
    write_archive(open_bundle(executorch_bundle), tmp_path / "second.zip")
    assert (tmp_path / "second.zip").read_bytes() == archive.read_bytes()


def test_four_bit_convolution_weights_take_at_most_4_2_bits(executorch_bundle: Path) -> None:
    layers = open_bundle(executorch_bundle).manifest.quantization.layers
    split = split_program((executorch_bundle / "unet.pte").read_bytes(), layers)
    weights = sum(layer.weights for layer in layers if layer.weight_bits == 4 and layer.kind == "conv")
    assert weights > 0
    assert 8 * len(zlib.compress(split.nibbles, 9)) / weights <= 4.2


def test_an_existing_folder_stays_untouched(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(S2PError, match="exists"):
        unpack_archive(archive, tmp_path / "there")
    assert not list_files(tmp_path / "there")


def _rewritten(archive: Path, target: Path, change: dict[str, bytes | None]) -> Path:
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            data = change.get(name, source.read(name))
            if data is not None:
                copy.writestr(name, data)
    return target


@pytest.mark.parametrize("case", ["altered", "missing", "oversized", "regions", "escape", "no zip", "version"])
def test_damaged_archives_leave_nothing_behind(case: str, archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as source:
        members = {name: source.read(name) for name in source.namelist()}
    index, manifest = json.loads(members["archive.json"]), json.loads(members["manifest.json"])
    nibbles = bytearray(members["unet.pte.nibbles"])
    nibbles[3] ^= 0x10
    index["version" if case == "version" else "packed"] = 2 if case == "version" else {"unet.pte": [[8, 4], [2, 4]]}
    manifest["files"]["../outside"] = manifest["files"]["unet.pte"]
    changes: dict[str, dict[str, bytes | None]] = {
        "altered": {"unet.pte.nibbles": bytes(nibbles)},
        "missing": {"text_encoder.pte": None},
        "oversized": {"tokenizer/vocab.json": members["tokenizer/vocab.json"] + b" "},
        "regions": {"archive.json": json.dumps(index).encode()},
        "version": {"archive.json": json.dumps(index).encode()},
        "escape": {"manifest.json": json.dumps(manifest).encode()},
    }
    broken = tmp_path / "broken.zip"
    if case == "no zip":
        broken.write_bytes(archive.read_bytes()[:-40])
    else:
        _rewritten(archive, broken, changes[case])
    with pytest.raises(S2PError):
        unpack_archive(broken, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.zip"]
