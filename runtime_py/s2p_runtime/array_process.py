"""A library in a process of its own that is asked and answers with arrays: it may end that process without a word, or never
answer, and the command says so."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.child_process import Said, close_pipes, ended_early
from s2p_runtime.errors import S2PError

Array = NDArray[Any]


class ArrayProcess:
    """The process. Messages are a line of JSON, then the arrays' bytes; see :mod:`s2p_runtime.array_worker`.

    Attributes:
        module: what Python runs in it.
        library: what messages call it.
        remedy: what to do when it cannot do something.
    """

    module: ClassVar[str]
    library: ClassVar[str]
    remedy: ClassVar[str] = "convert the checkpoint again"

    def __init__(self, time_limit: float) -> None:
        """
        Args:
            time_limit: seconds for one answer.
        """
        self.time_limit = time_limit
        self._process: subprocess.Popen[bytes] | None = None
        self._said: Said | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._buffer = bytearray()

    def __del__(self) -> None:
        self.close()

    @property
    def process_id(self) -> int | None:
        """Of the process, if it runs."""
        return None if self._process is None else self._process.pid

    def ask(self, what: str, request: Mapping[str, Any], arrays: Sequence[Array] = ()) -> tuple[dict[str, Any], list[Array]]:
        """Send a request, wait for the answer.

        Args:
            what: the program, for messages.

        Raises:
            S2PError: the process ended, did not answer in time, or could not do it.
        """
        process = self._start()
        assert process.stdin is not None
        header = {**request, "arrays": [[str(a.dtype), list(a.shape)] for a in arrays]}
        deadline = time.monotonic() + self.time_limit
        try:
            process.stdin.write(json.dumps(header).encode() + b"\n")
            for array in arrays:
                process.stdin.write(np.ascontiguousarray(array).tobytes())
            process.stdin.flush()
        except OSError:
            raise self._ended(what) from None
        answer = json.loads(self._line(what, deadline))
        if "error" in answer:
            raise self.refused(what, answer["error"])
        return answer, [self._array(what, deadline, *spec) for spec in answer.get("arrays", ())]

    def call(self, what: str, inputs: Mapping[str, Array], **more: str) -> dict[str, Array]:
        """Run what is loaded under ``what``; arrays by the names of its inputs and outputs.

        Raises:
            S2PError: see :meth:`ask`.
        """
        answer, arrays = self.ask(what, {"do": "run", "key": what, "names": list(inputs), **more}, list(inputs.values()))
        return dict(zip(answer["names"], arrays, strict=True))

    def refused(self, what: str, reason: str) -> S2PError:
        """The error for what the library could not do."""
        return S2PError(f"{self.library} cannot run {what} ({reason})", self.remedy)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            close_pipes(process)
            process.kill()
            process.wait()
        if self._said is not None:
            self._said.close()
        if self._scratch is not None:
            self._scratch.cleanup()
        self._said = self._scratch = None
        self._buffer.clear()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._said = Said()
            # Libraries compile into their temporary folder, which has to go when the process is ended.
            self._scratch = tempfile.TemporaryDirectory(prefix="s2p-")
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said.file,
                env={**os.environ, "TMPDIR": self._scratch.name},
            )  # fmt: skip
        return self._process

    def _more(self, what: str, deadline: float) -> None:
        """Take what the process has written, at least a byte."""
        process = self._process
        assert process is not None and process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            self.close()
            raise S2PError(
                f"{self.library} did not answer for {what} within {self.time_limit:.0f} seconds",
                "is the machine busy? try again",
            )
        found = os.read(process.stdout.fileno(), 1 << 20)
        if not found:
            raise self._ended(what)
        self._buffer += found

    def _line(self, what: str, deadline: float) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            self._more(what, deadline)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _array(self, what: str, deadline: float, dtype: str, shape: Sequence[int]) -> Array:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        while len(self._buffer) < size:
            self._more(what, deadline)
        found = np.frombuffer(bytes(self._buffer[:size]), dtype).reshape(shape)
        del self._buffer[:size]
        return found

    def _ended(self, what: str) -> S2PError:
        """The process is gone; say how."""
        assert self._process is not None
        status, said = self._process.wait(), "" if self._said is None else self._said.last_lines()
        self.close()
        remedy = f"is there enough memory? else {self.remedy}"
        return ended_early(f"{self.library} ended while it ran {what}", status, said, remedy)
