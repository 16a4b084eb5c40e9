"""Outputs that are whole or absent, and paths that stay inside their folder."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from s2p_runtime.errors import S2PError
from s2p_runtime.files import atomic_file, atomic_folder, inside, list_files, sha256_file


def one_line(error: pytest.ExceptionInfo[S2PError]) -> str:
    text = str(error.value)
    assert "\n" not in text and "; " in text
    return text


def test_sha256_of_the_published_example_and_of_many_chunks(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256_file(small) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    content = bytes(range(256)) * 10_001
    large.write_bytes(content)
    assert sha256_file(large) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("relative", ["", "/etc/passwd", "../x", "a/../../x", "a\\..\\x", "a\0b", "a/.."])
def test_paths_that_leave(tmp_path: Path, relative: str) -> None:
    with pytest.raises(S2PError) as caught:
        inside(tmp_path, relative)
    assert "outside its folder" in one_line(caught)


def test_links_out_and_in_circles(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (tmp_path / "secret").write_text("x")
    (folder / "file").write_text("y")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "near").symlink_to(folder / "file")
    for relative in ("out", "up/secret", "loop"):
        with pytest.raises(S2PError) as caught:
            inside(folder, relative)
        assert "link out of its folder" in one_line(caught)
    assert inside(folder, "near").read_text() == "y"
    assert inside(folder, "not/there/yet") == folder / "not/there/yet"


def test_list_files_is_sorted_and_relative(tmp_path: Path) -> None:
    for name in ("b", "a/z", "a/b/c", "a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert list_files(tmp_path) == ["a.txt", "a/b/c", "a/z", "b"]


def test_folder_appears_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "out"
    with atomic_folder(target) as scratch:
        (scratch / "file").write_text("1")
        assert not target.exists() and scratch.parent == target.parent
    assert (target / "file").read_text() == "1"
    assert os.listdir(target.parent) == ["out"]


def test_folder_with_a_relative_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with atomic_folder(Path("out")) as scratch:
        monkeypatch.chdir("/")
        (scratch / "file").write_text("1")
    assert (tmp_path / "out" / "file").read_text() == "1"


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_existing_target_is_refused_without_force(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"
    if kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("old")
    else:
        target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(S2PError) as caught, atomic_folder(target):
        pytest.fail("the block must not run")
    assert "`force`" in one_line(caught)
    with atomic_folder(target, force=True) as scratch:
        (scratch / "file").write_text("new")
    assert (target / "file").read_text() == "new" and not target.is_symlink()
    assert os.listdir(tmp_path) == ["out"]


def test_target_that_appears_meanwhile_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(S2PError, match="exists"), atomic_folder(target):
        target.mkdir()
        (target / "theirs").write_text("x")
    assert list_files(tmp_path) == ["out/theirs"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), S2PError("wrong", "right it")])
def test_an_error_leaves_nothing_and_keeps_the_old(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "file").write_text("old")
    with pytest.raises(type(error)) as caught, atomic_folder(target, force=True) as scratch:
        (scratch / "file").write_text("new")
        raise error
    assert caught.value is error
    assert list_files(tmp_path) == ["out/file"] and (target / "file").read_text() == "old"


def test_old_folder_comes_back_when_the_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "file").write_text("old")
    rename = os.rename

    def failing(source: Path, destination: Path) -> None:
        if str(source).endswith(".partial"):
            raise OSError(errno.EIO, "Input/output error", str(source))
        rename(source, destination)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(S2PError) as caught, atomic_folder(target, force=True) as scratch:
        (scratch / "file").write_text("new")
    assert f"cannot write {target}" in one_line(caught)
    assert list_files(tmp_path) == ["out/file"] and (target / "file").read_text() == "old"


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no space left to write"),
        (errno.EACCES, "no permission to write"),
        (errno.EROFS, "no permission to write"),
        (errno.EFBIG, "cannot write"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_write_errors_in_one_line(tmp_path: Path, number: int, message: str, named: bool) -> None:
    target = tmp_path / "out"
    with pytest.raises(S2PError) as caught, atomic_folder(target) as scratch:
        raise OSError(number, os.strerror(number), *([str(scratch / "weights")] if named else []))
    assert one_line(caught).startswith(f"{message} {target}")
    with pytest.raises(S2PError) as caught, atomic_file(target) as scratch:
        scratch.write_text("half")
        raise OSError(number, os.strerror(number), *([str(scratch)] if named else []))
    assert one_line(caught).startswith(f"{message} {target}")
    assert os.listdir(tmp_path) == []


def test_a_full_disk(tmp_path: Path) -> None:
    """/dev/full answers every write with ENOSPC, as a full disk does."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    target = tmp_path / "out"
    with pytest.raises(S2PError) as caught, atomic_folder(target) as scratch:
        (scratch / "weights").symlink_to("/dev/full")
        (scratch / "weights").write_bytes(b"x" * 100)
    assert f"no space left to write {target}" in one_line(caught)
    assert os.listdir(tmp_path) == []


def test_an_error_about_another_file_stays_what_it_is(tmp_path: Path) -> None:
    """Also when that file lies beside the target: a missing input is no trouble with the output."""
    for missing in (tmp_path / "input.txt", Path("/nowhere/input.txt")):
        with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "out"):
            missing.read_text()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("below", ["x", "x/y", "x/y/z"])
def test_a_file_in_the_place_of_a_parent_folder(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("x")
    target = tmp_path / "file" / below
    for block in (atomic_folder(target), atomic_file(target)):
        with pytest.raises(S2PError) as caught, block:
            pytest.fail("the block must not run")
        assert f"cannot write {target}" in one_line(caught)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("below", ["out", "a/out", "a/b/out"])
def test_no_permission(tmp_path: Path, below: str) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    for block in (atomic_folder(closed / below), atomic_file(closed / below)):
        with pytest.raises(S2PError) as caught, block as scratch:
            scratch.write_text("x")
        assert "no permission" in one_line(caught)


@pytest.mark.parametrize("below", ["out", "a/out", "a/b/out"])
def test_no_permission_for_a_new_folder(tmp_path: Path, below: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, by a mkdir that refuses, so that it holds for root as well."""
    mkdir = os.mkdir

    def refusing(path: str, *args: int) -> None:
        if Path(path).parent == tmp_path:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        mkdir(path, *args)

    monkeypatch.setattr(os, "mkdir", refusing)
    with pytest.raises(S2PError) as caught, atomic_folder(tmp_path / below):
        pytest.fail("the block must not run")
    assert "no permission" in one_line(caught)


def test_atomic_file(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "report.json"
    with atomic_file(target) as scratch:
        assert scratch.suffix == ".json"
        scratch.write_text("1")
        assert not target.exists()
    with atomic_file(target) as scratch:
        scratch.write_text("2")
    assert target.read_text() == "2"
    with pytest.raises(S2PError, match="`force`"), atomic_file(target, force=False):
        pytest.fail("the block must not run")
    with pytest.raises(ValueError, match="broken"), atomic_file(target) as scratch:
        scratch.write_text("3")
        raise ValueError("broken")
    assert target.read_text() == "2" and os.listdir(target.parent) == ["report.json"]
    with pytest.raises(S2PError, match="is a folder"), atomic_file(target.parent):
        pytest.fail("the block must not run")
    shutil.rmtree(target.parent)
