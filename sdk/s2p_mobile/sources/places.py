"""Where a model is: a file or folder, or a model of the Hugging Face hub that was downloaded before. Nothing is ever fetched."""

from __future__ import annotations

import re
from pathlib import Path

from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import

_HUB_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"


def locate(source: str | Path) -> tuple[Path, str | None]:
    """The place of a source.

    Args:
        source: a path, or a hub id such as ``stabilityai/sdxl-turbo``, whose newest downloaded snapshot is taken. What exists
            here goes before the hub.

    Returns:
        The path, and of a hub id the model's name (its folder is called by a digest).

    Raises:
        S2PError: neither is there.
    """
    path = Path(source)
    if path.exists():
        return path, None
    name = path.as_posix()
    if not re.fullmatch(_HUB_ID, name):
        raise S2PError(f"{source} does not exist", "give a model folder, a single file, a checkpoint or a bundle")
    with quiet_import():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    try:
        return Path(snapshot_download(name, local_files_only=True)), path.name
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise S2PError(
            f"{source} does not exist here, nor in this machine's Hugging Face cache",
            f"give a model folder, or download a model of that name: hf download {name}",
        ) from error
