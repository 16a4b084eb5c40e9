"""The process of :mod:`s2p_converters.targets.beside`.

    python -m s2p_converters.targets.beside_worker DESCRIPTOR

reads a :class:`.beside.Request` as a line of JSON from standard input, then names of components, a line each. It writes an
:class:`.beside.Answer` for each name as a line of JSON to the open file of that number. It ends with its input, and after an error.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from queue import Queue

import torch

from s2p_converters.core.checkpoint import open_checkpoint
from s2p_converters.targets.beside import Answer, Request
from s2p_converters.targets.kept_programs import lower_and_keep
from s2p_converters.targets.lowering import float_parts
from s2p_converters.targets.registry import TARGETS
from s2p_converters.targets.task import Task
from s2p_runtime.child_process import ToldError
from s2p_runtime.errors import S2PError

_CHUNK = 1 << 16
_GRACE = 0.5
"""Seconds in which it ends by itself when nothing is left to do."""
_PATIENCE = 5.0
"""Seconds for cleaning up, when nobody waits for answers any more and a library does not let go."""
_INTERRUPTED = 130


def answers(request: Request, names: Queue[str | None]) -> Iterator[Answer]:
    """Of one component after another; an error is the last answer."""
    try:
        checkpoint, target = open_checkpoint(request.checkpoint), TARGETS.get(request.target)
        task = Task(checkpoint, target, target.options(**request.options), request.folder, request.shapes, request.kept)
        parts = float_parts(checkpoint, request.shapes, task.options)
        while (name := names.get()) is not None:
            folder = request.folder / name
            folder.mkdir()
            yield Answer(component=lower_and_keep(replace(task, folder=folder), parts[name]))
    except (S2PError, OSError) as error:
        yield Answer(error=ToldError.of(error))


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
    # To the main thread, so that it does not go on waiting for a process of its own.
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    signal.pthread_kill(main_thread, signal.SIGINT)
    time.sleep(_PATIENCE)
    os._exit(_INTERRUPTED)


def main() -> int:
    """Answer one request."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    torch.set_num_threads(1)
    lines: Queue[str | None] = Queue()
    threading.Thread(target=_listen, args=[lines], daemon=True).start()
    request: Request | None = None
    try:
        with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as told:
            first = lines.get()
            if first is None:
                return 0
            request = Request.model_validate_json(first)
            for answer in answers(request, lines):
                told.write(answer.model_dump_json() + "\n")
                told.flush()
    except (KeyboardInterrupt, BrokenPipeError):
        # Whoever asked may be gone; otherwise it does this itself.
        if request is not None:
            shutil.rmtree(request.folder, ignore_errors=True)
        return _INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
