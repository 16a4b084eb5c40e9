"""Sizes and times as people read them."""

from __future__ import annotations


def size_words(count: int) -> str:
    """Bytes."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def time_words(seconds: float) -> str:
    """Seconds."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
