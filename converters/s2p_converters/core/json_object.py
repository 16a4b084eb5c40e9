"""One reader of JSON files that models and checkpoints bring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from s2p_runtime.errors import S2PError

MAX_CONFIG_BYTES = 1 << 20
"""Of a configuration; those of diffusers and transformers are a few kilobytes."""
MAX_WORDS_BYTES = 32 << 20
"""Of a vocabulary and other files of a tokenizer. CLIP's largest, tokenizer.json, has 4 MB."""


def json_text(path: Path, shown: str, limit: int, remedy: str) -> str:
    """The text of a JSON file that a stranger wrote; no more of it than ``limit`` bytes is read.

    Args:
        shown: how messages call the file.
        remedy: what to do where it is refused.

    Raises:
        S2PError: larger than ``limit``, or something that is no file (to read a pipe would wait for ever).
        OSError, UnicodeDecodeError: missing, unreadable, not UTF-8.
    """
    if path.exists() and not path.is_file():
        raise S2PError(f"{shown} is no file", remedy)
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise S2PError(f"{shown} has more than the {limit >> 20} MiB that are read of such a file", remedy)
    return content.decode("utf-8")


def read_object(path: Path, what: str, missing: str, damaged: str, limit: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """A JSON object.

    Args:
        what: the file should be, with its article.
        missing, damaged: what to do about a file that is not there, or holds something else.
        limit: bytes; a larger file is refused.

    Raises:
        S2PError: missing, unreadable, too large, not an object.
    """
    try:
        found = json.loads(json_text(path, str(path.resolve()), limit, damaged))
    except FileNotFoundError:
        raise S2PError(f"{path.resolve()} does not exist", missing) from None
    except (OSError, ValueError, RecursionError) as error:
        raise S2PError(f"{path.resolve()} is not readable JSON ({error})", damaged) from error
    if not isinstance(found, dict):
        raise S2PError(f"{path.resolve()} is not {what} (a JSON object)", damaged)
    return found
