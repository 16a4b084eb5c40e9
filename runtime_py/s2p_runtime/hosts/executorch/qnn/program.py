"""What a .pte program for Snapdragon's NPU holds: one method that is one QNN delegate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.executorch.qnn.delegate_data import unpack
from s2p_runtime.quiet import quiet_import

DELEGATE = "QnnBackend"


@dataclass(frozen=True)
class CompiledProgram:
    """
    Attributes:
        graph: name of the graph, which is the method's too: ExecuTorch looks for the graph under the method's name.
        context: the context binary.
    """

    graph: str
    context: bytes


def compiled_program(path: Path) -> CompiledProgram:
    """Take a program apart.

    Raises:
        S2PError: not a .pte, truncated, or something else than one method that is one QNN delegate.
    """
    try:
        with quiet_import():
            from executorch.exir._serialize._program import deserialize_pte_binary

            program = deserialize_pte_binary(path.read_bytes()).program
        (plan,) = program.execution_plan
        (delegate,) = plan.delegates
        if delegate.id != DELEGATE:
            raise ValueError(f"it is for {delegate.id}")
        data = bytes(program.backend_delegate_data[delegate.processed.index].data)
    except Exception as error:  # whatever the reader raises on bytes that are no program
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise S2PError(f"{path.name} is no program for Snapdragon's NPU ({reason})", "convert the checkpoint again") from error
    return CompiledProgram(plan.name, unpack(data))
