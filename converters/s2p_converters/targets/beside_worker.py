"""The process of :mod:`s2p_converters.targets.beside`.

    python -m s2p_converters.targets.beside_worker

reads a :class:`.beside.Request` as a line of JSON from standard input, then names of components, a line each. It writes an
:class:`.beside.Answer` for each name as a line of JSON on what was standard output; what the libraries print goes to standard error.
It ends with its input, and after an error.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Queue

from s2p_converters.core.checkpoint import open_checkpoint
from s2p_converters.targets.beside import Answer, Request
from s2p_converters.targets.kept_programs import lower_or_take
from s2p_converters.targets.lowering import float_parts
from s2p_converters.targets.registry import TARGETS
from s2p_runtime.errors import S2PError

_CHUNK = 1 << 16
_GRACE = 0.5
"""Seconds in which it ends by itself when nothing is left to do."""
_PATIENCE = 5.0
"""Seconds for cleaning up, when nobody waits for answers any more and a library does not let go."""
_INTERRUPTED = 130


@dataclass(frozen=True)
class Lowerer:
    """Lowers the components of one request."""

    request: Request
    names: Queue[str | None]

    def answers(self) -> Iterator[Answer]:
        """Of one component after another; an error is the last answer."""
        request = self.request
        try:
            checkpoint, target = open_checkpoint(request.checkpoint), TARGETS.get(request.target)
            options = target.options(**request.options)
            parts = float_parts(checkpoint, request.shapes, options)
            while (name := self.names.get()) is not None:
                folder = request.folder / name
                folder.mkdir()
                yield Answer(component=lower_or_take(request.kept, target, checkpoint, options, folder, parts[name])[0])
        except (S2PError, OSError) as error:
            yield Answer.of_error(error)


def _listen(names: Queue[str | None]) -> None:
    """Hand names on. Where the input ends there is nobody to answer to."""
    rest = b""
    # Not through sys.stdin: its lock would be held when the interpreter ends.
    while found := os.read(0, _CHUNK):
        *whole, rest = (rest + found).split(b"\n")
        for line in whole:
            names.put(line.decode())
    names.put(None)
    time.sleep(_GRACE)
    _thread.interrupt_main()
    time.sleep(_PATIENCE)
    os._exit(_INTERRUPTED)


def main() -> int:
    """Answer one request."""
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines: Queue[str | None] = Queue()
    threading.Thread(target=_listen, args=[lines], daemon=True).start()
    try:
        first = lines.get()
        if first is None:
            return 0
        for answer in Lowerer(Request.model_validate_json(first), lines).answers():
            told.write(answer.model_dump_json() + "\n")
            told.flush()
    except (KeyboardInterrupt, BrokenPipeError):
        return _INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
