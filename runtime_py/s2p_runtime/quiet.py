"""Importing chatty third-party packages without their messages reaching the person at the terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import BinaryIO

_STANDARD_DESCRIPTORS = (1, 2)
_NOTE_BYTES = 4000


def _flush_standard_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


@contextlib.contextmanager
def _descriptors_into(sink: BinaryIO) -> Iterator[None]:
    """Point file descriptors 1 and 2 at ``sink``; a descriptor that is closed stays closed."""
    _flush_standard_streams()
    saved: list[tuple[int, int]] = []
    try:
        for descriptor in _STANDARD_DESCRIPTORS:
            with contextlib.suppress(OSError):
                saved.append((descriptor, os.dup(descriptor)))
                os.dup2(sink.fileno(), descriptor)
        yield
    finally:
        _flush_standard_streams()
        for descriptor, copy in saved:
            os.dup2(copy, descriptor)
            os.close(copy)


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Discard what is printed, logged or warned inside the block; let every exception through.

    Covers Python's ``print``, ``logging`` and ``warnings`` and what native code writes to file descriptors 1 and 2. When
    the block raises, the last discarded output is attached to the exception as a note, so a traceback still shows it.
    The redirection is process-wide: other threads' output is discarded too while the block runs. Blocks may nest.

    Example:
        >>> with quiet_import():
        ...     import coremltools as ct
    """
    previous_level = logging.root.manager.disable
    with tempfile.TemporaryFile() as sink:
        try:
            with _descriptors_into(sink), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                logging.disable(logging.CRITICAL)
                try:
                    yield
                finally:
                    logging.disable(previous_level)
        except BaseException as error:
            sink.seek(max(0, sink.seek(0, os.SEEK_END) - _NOTE_BYTES))
            if said := sink.read().decode("utf-8", "replace").strip():
                error.add_note(f"Output before the error:\n{said}")
            raise
