"""One reader of JSON files that models and checkpoints bring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from s2p_runtime.errors import S2PError


def read_object(path: Path, what: str, missing: str, damaged: str) -> dict[str, Any]:
    """A JSON object.

    Args:
        what: the file should be, with its article.
        missing, damaged: what to do about a file that is not there, or holds something else.

    Raises:
        S2PError: missing, unreadable, not an object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise S2PError(f"{path.resolve()} does not exist", missing) from None
    except (OSError, ValueError, RecursionError) as error:
        raise S2PError(f"{path.resolve()} is not readable JSON ({error})", damaged) from error
    if not isinstance(found, dict):
        raise S2PError(f"{path.resolve()} is not {what} (a JSON object)", damaged)
    return found
