"""What callers may give as ``progress``."""

from __future__ import annotations

from typing import TypeAlias

from s2p_runtime.errors import S2PError
from s2p_runtime.progress import Listener, Progress, Silent, Told

ProgressLike: TypeAlias = Progress | Listener | bool | None
"""None or False: silence. True: bars on stderr, plain lines where that is no terminal. A function: it gets a
:class:`~s2p_runtime.progress.ProgressEvent` at each step. A :class:`~s2p_runtime.progress.Progress`: itself."""


def listener(progress: ProgressLike) -> Progress:
    """The listener that a caller means.

    Raises:
        S2PError: something else.
    """
    if progress is None or progress is False:
        return Silent()
    if progress is True:
        # rich takes a tenth of a second to import; silent callers do without it.
        from s2p_mobile.api.terminal import TerminalProgress

        return TerminalProgress()
    if hasattr(progress, "stage"):
        return progress
    if callable(progress):
        return Told(progress)
    raise S2PError(f"{progress!r} is no progress", "give None, True or a function that takes an event", "progress")
