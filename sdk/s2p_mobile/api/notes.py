"""Telling a caller what is worth knowing, as warnings that can be filtered."""

from __future__ import annotations

import warnings

from s2p_runtime.errors import S2PWarning


def note(text: str) -> None:
    """Warn the caller of the public function that calls this."""
    warnings.warn(text, S2PWarning, stacklevel=3)
