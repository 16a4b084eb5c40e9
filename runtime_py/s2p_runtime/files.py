"""Files that are whole or absent: checksums, paths that stay inside a folder, outputs that appear only when complete."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from s2p_runtime.errors import S2PError

_CHUNK_BYTES = 1 << 20


def sha256_file(path: Path) -> str:
    """Lower-case hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def inside(folder: Path, relative: str) -> Path:
    """The path of ``relative`` below ``folder``.

    Raises:
        S2PError: when ``relative`` is empty, absolute, holds ``..`` or a backslash, or leaves the folder through a link.
    """
    pure = PurePosixPath(relative)
    if not relative or pure.is_absolute() or ".." in pure.parts or "\\" in relative or "\0" in relative:
        raise S2PError(f"path {relative!r} in {folder.name} points outside its folder", "get the folder from its author again")
    path = folder / pure
    try:
        stays = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a loop of links
        stays = False
    if not stays:
        raise S2PError(
            f"path {relative!r} in {folder.name} is a link out of its folder", "get the folder from its author again"
        )
    return path


def list_files(folder: Path) -> list[str]:
    """Relative POSIX paths of all regular files below ``folder``, sorted."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def _on_the_way(path: Path, target: Path) -> bool:
    """Whether ``path`` is ``target``, a folder above it, its scratch or replaced form, or something inside of these."""
    if target.is_relative_to(path):
        return True
    beside = next((part.name for part in (path, *path.parents) if part.parent == target.parent), None)
    return beside is not None and (beside == target.name or beside.startswith(f".{target.name}."))


def _readable(error: OSError, target: Path) -> Exception:
    """The one-line form of an error on the way to ``target``; an error about any other file is returned unchanged."""
    if isinstance(error.filename, str | bytes | os.PathLike):
        path = Path(os.path.abspath(os.fsdecode(error.filename)))
        if not _on_the_way(path, target):
            return error
    if error.errno == errno.ENOSPC:
        return S2PError(f"no space left to write {target}", "free some space or choose another place with `out`", "out")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return S2PError(f"no permission to write {target}", "choose another place with `out`", "out")
    return S2PError(f"cannot write {target}: {error.strerror or error}", "choose another place with `out`", "out")


def refuse_existing(target: Path, force: bool) -> None:
    """Raise :class:`S2PError` when ``target`` exists and ``force`` is false."""
    if os.path.lexists(target) and not force:
        raise S2PError(f"{target} exists", "choose another `out` or pass `force` to replace it", "out")


def require_writable(target: Path) -> None:
    """Find out before long work whether a file can be written there.

    Raises:
        S2PError: ``target`` is a folder, or the nearest folder above it that exists takes no files.
    """
    target = Path(os.path.abspath(target))
    if target.is_dir():
        raise S2PError(f"{target} is a folder", "give a file name")
    place = next(parent for parent in target.parents if os.path.lexists(parent))
    probe = place / f".{target.name}.{secrets.token_hex(4)}.partial"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise _readable(error, target) from error


def _swap(scratch: Path, target: Path, force: bool) -> None:
    """Put ``scratch`` in the place of ``target``; what stood there is removed last, or put back if the rename fails."""
    refuse_existing(target, force)
    if not os.path.lexists(target):
        os.rename(scratch, target)
        return
    replaced = target.parent / f".{target.name}.{secrets.token_hex(4)}.replaced"
    os.rename(target, replaced)
    try:
        os.rename(scratch, target)
    except OSError:
        os.rename(replaced, target)
        raise
    if replaced.is_dir() and not replaced.is_symlink():
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        replaced.unlink()


@contextlib.contextmanager
def atomic_folder(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Give an empty scratch folder beside ``target`` that is renamed to ``target`` when the block ends without error.

    On any error nothing is left behind and an existing ``target`` is untouched.

    Raises:
        S2PError: ``target`` exists and ``force`` is false, or the place cannot be written.
    """
    target = Path(os.path.abspath(target))
    refuse_existing(target, force)
    scratch = target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir()
        yield scratch
        _swap(scratch, target, force)
    except OSError as error:
        raise _readable(error, target) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def atomic_file(target: Path, *, force: bool = True) -> Iterator[Path]:
    """Give a scratch path beside ``target`` that replaces ``target`` when the block ends without error.

    Raises:
        S2PError: ``target`` exists and ``force`` is false, or the place cannot be written.
    """
    target = Path(os.path.abspath(target))
    refuse_existing(target, force)
    if target.is_dir():
        raise S2PError(f"{target} is a folder", "give a file name")
    scratch = target.parent / f".{target.name}.{secrets.token_hex(4)}.partial{target.suffix}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield scratch
        os.replace(scratch, target)
    except OSError as error:
        raise _readable(error, target) from error
    finally:
        # Gone after success, and unreachable when the parent is no folder; an error here would hide the one above.
        with contextlib.suppress(OSError):
            scratch.unlink()
