"""The download form of bundles: one ``NAME.s2pmobile.zip``, which :mod:`s2p_runtime.archive` and the libraries of phones unpack."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from s2p_runtime.archive import ARCHIVE_FORMAT, ARCHIVE_VERSION, INDEX_NAME
from s2p_runtime.files import atomic_file

LEVEL = 9
"""Of deflate."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip can hold, for every member: the same bundle gives the same archive."""


def write_members(
    path: Path,
    members: Iterable[tuple[str, bytes]],
    packed: Mapping[str, Sequence[tuple[int, int]]],
    *,
    deflated: bool,
    force: bool = False,
) -> None:
    """Write an archive.

    Args:
        members: (name, content), in the order in which they are to stand.
        packed: as :class:`s2p_runtime.archive.ArchiveIndex` has it.
        deflated: or stored as they are.
        force: replace what lies at ``path``.

    Raises:
        S2PError: ``path`` exists and ``force`` is false.
    """
    index = {"format": ARCHIVE_FORMAT, "version": ARCHIVE_VERSION, "packed": packed}
    method = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    with atomic_file(path, force=force) as scratch, zipfile.ZipFile(scratch, "w", method, compresslevel=LEVEL) as zip_file:
        for name, data in [(INDEX_NAME, (json.dumps(index, indent=1) + "\n").encode()), *members]:
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = method
            zip_file.writestr(info, data, compresslevel=LEVEL)
