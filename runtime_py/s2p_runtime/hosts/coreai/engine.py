"""Apple's runtime in a process of its own: it may end that process without a word, or never answer, and the command says so."""

from __future__ import annotations

import json
import os
import platform
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.child_process import Said, close_pipes, ended_early
from s2p_runtime.errors import S2PError

TIME_LIMIT = 1800.0
"""Seconds for one answer. A call of a U-Net of Stable Diffusion's size takes a minute or two on one core."""
_SUPPORTED = (("Linux", "x86_64"), ("Darwin", "arm64"))

Array = NDArray[Any]


def require_engine() -> str:
    """Version of the installed coreai-core.

    Raises:
        S2PError: it is not installed, or Apple has none for this machine.
    """
    try:
        return version("coreai-core")
    except PackageNotFoundError:
        system, machine = platform.system(), platform.machine()
        if (system, machine) not in _SUPPORTED:
            raise S2PError(
                f"Apple's Core AI packages do not exist for {system} on {machine}",
                "use Linux on x86_64, or a Mac with Apple's chip",
            ) from None
        raise S2PError("this needs coreai-core, which is not installed", "run pip install 's2p-mobile[coreai]'") from None


class Engine:
    """The process. Messages are a line of JSON, then the arrays' bytes; see :mod:`s2p_runtime.hosts.coreai.worker`."""

    def __init__(self, time_limit: float = TIME_LIMIT) -> None:
        # The attributes first: an engine that is refused is closed too.
        self.time_limit = time_limit
        self._process: subprocess.Popen[bytes] | None = None
        self._said: Said | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._buffer = bytearray()
        require_engine()

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
            raise S2PError(f"Apple's runtime cannot run {what} ({answer['error']})", "convert the checkpoint again")
        return answer, [self._array(what, deadline, *spec) for spec in answer.get("arrays", ())]

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
            # The runtime compiles into its temporary folder, which has to go when the process is ended.
            self._scratch = tempfile.TemporaryDirectory(prefix="s2p-coreai-")
            self._process = subprocess.Popen(
                [sys.executable, "-m", "s2p_runtime.hosts.coreai.worker"],
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
                f"Apple's runtime did not answer for {what} within {self.time_limit:.0f} seconds",
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
        remedy = "is there enough memory? else convert the checkpoint again"
        return ended_early(f"Apple's runtime ended while it ran {what}", status, said, remedy)

    def load(self, what: str, path: Path, function: str, wide: bool = False) -> None:
        """Compile a program and load one of its functions under ``what``; ``wide``: see :mod:`s2p_runtime.hosts.coreai.widening`."""
        self.ask(what, {"do": "load", "key": what, "path": str(path), "function": function, "wide": wide})

    def run(self, what: str, function: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Call a loaded function."""
        answer, arrays = self.ask(
            what, {"do": "run", "key": what, "function": function, "names": list(inputs)}, list(inputs.values())
        )
        return dict(zip(answer["names"], arrays, strict=True))
