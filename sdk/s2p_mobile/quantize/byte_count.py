"""Sizes as people write them."""

from __future__ import annotations

import re
from fractions import Fraction

_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def byte_count(text: str) -> int:
    """``300MB`` -> 300,000,000.

    Raises:
        ValueError: no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    if match is None or match[2].upper() not in _BYTES:
        raise ValueError(f"{text!r} is no size, write it like 300MB or 1.5GiB")
    return int(Fraction(match[1]) * _BYTES[match[2].upper()])
