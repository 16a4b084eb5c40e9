"""What the process that converts is asked for, and how it is asked."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict

from s2p_converters.targets.coreai.options import CoreAIOptions
from s2p_runtime.errors import CheckFailed, S2PError

_LINES_OF_NOTE = 20


class Request(BaseModel):
    """One program.

    Attributes:
        checkpoint: its folder.
        folder: of the bundle.
        name: of the component in the manifest: ``unet``, ``unet_<k>``, or a float one.
        title: for people.
        path: of the program below ``folder``.
        shapes: latent height and width by function, the own size first.
        number: of a chunk, from 1; None: the U-Net is one program, or it is a float component.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: Path
    options: dict[str, Any]
    folder: Path
    name: str
    title: str
    path: str
    shapes: dict[str, tuple[int, int]]
    number: int | None = None

    @property
    def asked(self) -> CoreAIOptions:
        """The options."""
        return CoreAIOptions(**self.options)


class Converter:
    """The process, started at the first request. One serves all components of a conversion: importing torch takes seconds."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._said: IO[bytes] | None = None

    def start(self) -> subprocess.Popen[str]:
        """Start it, if it does not run yet; nothing waits until it is ready."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "s2p_converters.targets.coreai.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, encoding="utf-8",
            )  # fmt: skip
        return self._process

    def ask(self, request: Request) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            S2PError: it cannot be done, or the process ended; the message names the component.
        """
        process = self.start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(request.model_dump_json() + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            status = process.wait()
            said = self._note()
            self.close()
            raise self._ended(request.title, status, said)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            problem, remedy, field = answer["error"]
            raise (CheckFailed if answer.get("failed") else S2PError)(problem, remedy, field)
        return answer

    @staticmethod
    def _ended(title: str, status: int, said: str) -> S2PError:
        how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        error = S2PError(
            f"Apple's library ended while it converted the {title} ({how})",
            "report it with the model, or convert for another target",
        )
        if said:
            error.add_note(f"Output before the end:\n{said}")
        return error

    def _note(self) -> str:
        if self._said is None:
            return ""
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        return "\n".join(lines[-_LINES_OF_NOTE:])

    def close(self) -> None:
        """End it; a later request starts another."""
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
            self._process.wait()
            self._process = None
        if self._said is not None:
            self._said.close()
            self._said = None
