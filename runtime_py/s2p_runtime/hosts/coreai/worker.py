"""The process that holds Apple's runtime.

    python -m s2p_runtime.hosts.coreai.worker

Requests and answers: :mod:`s2p_runtime.array_worker`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from s2p_runtime.array_worker import Answer, Array, keep_to, own_output, requests, serve


class Programs:
    """Loaded programs by key, each with its functions."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[AsyncExitStack, Any]] = {}
        self._functions: dict[tuple[str, str], Any] = {}

    async def load(self, request: Mapping[str, Any]) -> Answer:
        """Compile ``path``, load its ``function``."""
        from coreai.authoring import AIModelAsset

        from s2p_runtime.hosts.coreai.widening import write_wide

        key, function = request["key"], request["function"]
        if key not in self._open:
            stack, path = AsyncExitStack(), Path(request["path"])
            if request["wide"]:
                path = Path(stack.enter_context(TemporaryDirectory())) / path.name
                write_wide(Path(request["path"]), path)
            model = await stack.enter_async_context(AIModelAsset.load(path).executable())
            self._open[key] = (stack, model)
        model = self._open[key][1]
        if function not in model.function_names:
            raise ValueError(f"it has no function {function}")
        self._functions[key, function] = model.load_function(function)
        return {}, []

    async def run(self, request: Mapping[str, Any], arrays: list[Array]) -> Answer:
        """Call a function; inputs and outputs by name."""
        from coreai.runtime import NDArray as Tensor

        function = self._functions[request["key"], request["function"]]
        outputs = await function({name: Tensor(array) for name, array in zip(request["names"], arrays, strict=True)})
        return {"names": list(outputs)}, [np.array(value.numpy(), copy=True, order="C") for value in outputs.values()]

    async def drop(self, key: str) -> Answer:
        """Let go of a program."""
        self._functions = {name: function for name, function in self._functions.items() if name[0] != key}
        if key in self._open:
            stack, _ = self._open.pop(key)
            await stack.aclose()
        return {}, []


def digests(path: Path) -> Answer:
    """Names of a program's constants, and a SHA-256 of each."""
    from s2p_runtime.hosts.coreai.constants import read_constants

    found = {constant.key: constant.digest for constant in read_constants(path)}
    return {"names": list(found)}, [np.frombuffer(digest, np.uint8) for digest in found.values()]


def kinds(path: Path) -> Answer:
    """Number and bytes of a program's constants by element type."""
    from s2p_runtime.hosts.coreai.constants import read_constants

    found: dict[str, list[int]] = {}
    for constant in read_constants(path):
        found.setdefault(constant.kind, []).append(constant.data.size)
    return {"kinds": [[kind, len(sizes), sum(sizes)] for kind, sizes in found.items()]}, []


def start(threads: int | None) -> Answer:
    """Import the runtime; keep to so many cores."""
    keep_to(threads)
    import coreai.authoring
    import coreai.runtime  # noqa: F401

    return {}, []


async def answer(programs: Programs, request: Mapping[str, Any], arrays: list[Array]) -> Answer:
    """Do what is asked."""
    match request["do"]:
        case "load":
            return await programs.load(request)
        case "run":
            return await programs.run(request, arrays)
        case "drop":
            return await programs.drop(request["key"])
        case "digests":
            return digests(Path(request["path"]))
        case "kinds":
            return kinds(Path(request["path"]))
        case "start":
            return start(request["threads"])
    raise ValueError(f"unknown request {request['do']}")


def main() -> int:
    """Entry of the process."""
    programs = Programs()
    asyncio.run(serve(requests(), own_output(), lambda request, arrays: answer(programs, request, arrays)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
