"""The other end of :class:`s2p_runtime.array_process.ArrayProcess`: requests in, answers out, of a library in this process.

Standard input has requests, each a line of JSON and the bytes of its ``arrays`` ([dtype, shape] each, C order); what was standard
output gets answers of the same form, with ``error`` where something failed. What the library prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Answer = tuple[dict[str, Any], list[Array]]
Do = Callable[[Mapping[str, Any], list[Array]], Awaitable[Answer]]


def _read(source: IO[bytes], dtype: str, shape: list[int]) -> Array:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(source.read(size), dtype).reshape(shape)


async def serve(source: IO[bytes], sink: IO[bytes], do: Do) -> None:
    """Answer until there are no more requests.

    Args:
        do: does what is asked; what it raises is told as one line.
    """
    while line := source.readline():
        request = json.loads(line)
        arrays = [_read(source, *spec) for spec in request["arrays"]]
        try:
            reply, results = await do(request, arrays)
        except Exception as error:
            lines = str(error).strip().splitlines()
            reply, results = {"error": lines[0] if lines else type(error).__name__}, []
        sink.write(json.dumps({**reply, "arrays": [[str(each.dtype), list(each.shape)] for each in results]}).encode() + b"\n")
        for each in results:
            sink.write(np.ascontiguousarray(each).tobytes())
        sink.flush()


def own_output() -> IO[bytes]:
    """What was standard output, which from now on is standard error."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sink


def keep_to(threads: int | None) -> None:
    """Keep this process to so many cores (None: to all that it may use)."""
    if threads is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def requests() -> IO[bytes]:
    """Where requests come from."""
    return sys.stdin.buffer
