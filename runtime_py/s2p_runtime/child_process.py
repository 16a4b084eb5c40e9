"""Processes of our own around libraries that may end theirs: what they said, and how they ended."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
from typing import IO, Any, Self

from pydantic import BaseModel, ConfigDict

from s2p_runtime.errors import CheckFailed, S2PError

_LINES = 20


class Said:
    """What a process writes to its error stream, kept in a file: nobody has to read it while it runs."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)

    def close(self) -> None:
        """Forget it."""
        self.file.close()

    def last_lines(self) -> str:
        """The end of it."""
        self.file.seek(0)
        return "\n".join(self.file.read().decode("utf-8", "replace").strip().splitlines()[-_LINES:])


class ToldError(BaseModel):
    """An error as one process tells it to another, in JSON.

    Attributes:
        problem, remedy, field: see :class:`~s2p_runtime.errors.S2PError`.
        failed: whether it is a :class:`~s2p_runtime.errors.CheckFailed`.
        system: number, text and path of an error of the system, which stands for the rest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    problem: str = ""
    remedy: str = ""
    field: str | None = None
    failed: bool = False
    system: tuple[int | None, str | None, str | None] | None = None

    @classmethod
    def of(cls, error: S2PError | OSError) -> Self:
        """What is told of an error."""
        if isinstance(error, OSError):
            path = None if error.filename is None else str(error.filename)
            return cls(system=(error.errno, error.strerror or str(error), path))
        return cls(problem=error.problem, remedy=error.remedy, field=error.field, failed=isinstance(error, CheckFailed))

    def meant(self) -> S2PError | OSError:
        """The error."""
        if self.system is not None:
            number, text, path = self.system
            return OSError(number, text) if path is None else OSError(number, text, path)
        return (CheckFailed if self.failed else S2PError)(self.problem, self.remedy, self.field)


def close_pipes(process: subprocess.Popen[Any]) -> None:
    """Close both ends, whether the process still listens or not."""
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()


def ended_early(what: str, status: int, said: str, remedy: str) -> S2PError:
    """The error for a process that ended before it answered; what it said last is a note of it.

    Args:
        what: ended, and in doing what.
        status: of its end; negative for a signal.
    """
    how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    error = S2PError(f"{what} ({how})", remedy)
    if said:
        error.add_note(f"Output before the end:\n{said}")
    return error
