"""Where s2p-mobile keeps what it would otherwise compute again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """``$S2P_CACHE/<kind>``; ``$XDG_CACHE_HOME/s2p-mobile/<kind>`` without that variable, and ``~/.cache`` without either."""
    if own := os.environ.get("S2P_CACHE"):
        return Path(own) / kind
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "s2p-mobile" / kind


def chosen_cache(cache: bool | str | Path, kind: str) -> Path | None:
    """What a function's ``cache`` stands for: True for :func:`cache_folder`, False for none, a folder for itself."""
    if isinstance(cache, bool):
        return cache_folder(kind) if cache else None
    return Path(cache)
