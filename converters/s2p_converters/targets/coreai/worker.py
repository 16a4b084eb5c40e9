"""The process that converts: Apple's library may end it without a word, and the command goes on to say so.

    python -m s2p_converters.targets.coreai.worker

reads a :class:`.requests.Request` as a line of JSON from standard input and answers each with a line of JSON on what was standard
output; what the libraries print goes to standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from s2p_converters.targets.coreai.requests import Request
from s2p_runtime.child_process import ToldError
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import


def prepare() -> None:
    """Import what requests need, while the command that started this process still reads its own input. What cannot be imported is
    told in the answer to a request."""
    with contextlib.suppress(Exception), quiet_import():
        import s2p_converters.targets.coreai.components  # noqa: F401
        from s2p_converters.targets.float_modules import import_classes

        import_classes()


def answer(request: Request) -> dict[str, Any]:
    """Do what is asked.

    Raises:
        S2PError: it cannot be done.
    """
    with quiet_import():
        from s2p_converters.targets.coreai.builder import repeatable_names
        from s2p_converters.targets.coreai.components import convert

    with repeatable_names():
        return convert(_checkpoint(request.checkpoint), request)


@lru_cache(maxsize=1)
def _checkpoint(folder: Path) -> Any:
    from s2p_converters.core.checkpoint import open_checkpoint

    return open_checkpoint(folder)


def reply(line: str) -> Mapping[str, Any]:
    """The answer to one line."""
    request = Request.model_validate_json(line)
    try:
        return answer(request)
    except S2PError as error:
        told = ToldError.of(error)
    except OSError as error:
        told = ToldError(
            problem=f"{request.path} cannot be written ({error.strerror or error})",
            remedy="is there room, and may you write there?",
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        told = ToldError(problem=f"Core AI conversion of {request.title} failed ({reason})", remedy="report it with the model")
    return {"error": told.model_dump()}


def main() -> int:
    """Answer until there are no more lines."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    prepare()
    for line in sys.stdin:
        answers.write(json.dumps(reply(line)) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
