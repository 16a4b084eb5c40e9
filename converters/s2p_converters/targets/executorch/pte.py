"""Opens .pte programs."""

from __future__ import annotations

from typing import Any

from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import

with quiet_import():
    from executorch.exir._serialize._program import deserialize_pte_binary


def open_pte(data: bytes) -> Any:
    """The file as ExecuTorch's own reader sees it: ``program`` and ``named_data``.

    Raises:
        S2PError: not a .pte, or truncated.
    """
    try:
        with quiet_import():
            file = deserialize_pte_binary(data)
        if not file.program.execution_plan:
            raise ValueError("no methods")
    except Exception as error:
        raise S2PError(f"this is no readable .pte program ({type(error).__name__})", "convert the checkpoint again") from error
    return file


def delegates_of(data: bytes) -> tuple[str, ...]:
    """The backend of each delegate of all methods, in order.

    Raises:
        S2PError: not a .pte, or truncated.
    """
    return tuple(part.id for plan in open_pte(data).program.execution_plan for part in plan.delegates)
