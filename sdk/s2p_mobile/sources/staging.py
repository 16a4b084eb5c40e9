"""What is no diffusers folder with safe weights, written as one."""

from __future__ import annotations

from pathlib import Path

from s2p_converters.core.resources import require_disk
from s2p_mobile.sources.origin import mark_origin
from s2p_mobile.sources.pipeline_index import complete_index
from s2p_mobile.sources.single_file import unpack
from s2p_mobile.sources.unpickle import pickled_components, tell_of_pickle, write_unpickled


def needs_staging(given: Path, allow_pickle: bool) -> bool:
    """Whether a model has to be written anew: a single file, or a folder with pickled weights that may be read."""
    return given.is_file() or (allow_pickle and given.is_dir() and bool(pickled_components(given)))


def write_staged(given: Path, folder: Path, allow_pickle: bool) -> Path:
    """Write a single file, or a folder with pickled weights, as a diffusers folder with safe ones.

    Args:
        folder: exists and is empty.

    Returns:
        ``folder``, of which messages speak by the name of what was given.

    Raises:
        S2PError: too little disk, and as :func:`unpack` and :func:`write_unpickled`.
    """
    pickles = [] if given.is_file() else [file for part in pickled_components(given) for file in part.glob("*.bin")]
    size = sum(file.stat().st_size for file in (pickles or [given]))
    require_disk(folder, size, f"unpacking {given.name}", "set TMPDIR to a folder on a larger disk")
    if given.is_file():
        unpack(given, folder, allow_pickle)
        complete_index(folder)
    else:
        write_unpickled(given, folder)
        tell_of_pickle(given)
    mark_origin(folder, str(given))
    return folder
