"""What the process that converts is asked for, and how it is asked."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from s2p_converters.targets.coreai.options import CoreAIOptions
from s2p_runtime.child_process import Said, ToldError, close_pipes, ended_early


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
        self._said: Said | None = None

    def start(self) -> subprocess.Popen[str]:
        """Start it, if it does not run yet; nothing waits until it is ready."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._said = Said()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "s2p_converters.targets.coreai.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said.file, text=True, encoding="utf-8",
            )  # fmt: skip
        return self._process

    def ask(self, request: Request, meanwhile: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """The answer to a request.

        Args:
            meanwhile: done here while the process works.

        Raises:
            S2PError: it cannot be done, or the process ended; the message names the component.
        """
        process = self.start()
        assert process.stdin is not None and process.stdout is not None
        try:
            # A process that has ended is noticed when it is listened to.
            with contextlib.suppress(OSError):
                process.stdin.write(request.model_dump_json() + "\n")
                process.stdin.flush()
            meanwhile()
            line = process.stdout.readline()
        except BaseException:
            # An answer that nobody waits for would be taken for that of the next request.
            self.close()
            raise
        if not line:
            status, said = process.wait(), "" if self._said is None else self._said.last_lines()
            self.close()
            what = f"Apple's library ended while it converted the {request.title}"
            raise ended_early(what, status, said, "report it with the model, or convert for another target")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ToldError.model_validate(answer["error"]).meant()
        return answer

    def close(self) -> None:
        """End it; a later request starts another."""
        if self._process is not None:
            close_pipes(self._process)
            self._process.wait()
            self._process = None
        if self._said is not None:
            self._said.close()
            self._said = None
