"""The process that holds Qualcomm's compiler and emulator, through ONNX Runtime.

    python -m s2p_runtime.hosts.executorch.qnn.worker

Requests and answers: :mod:`s2p_runtime.array_worker`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2p_runtime.array_worker import Answer, Array, keep_to, own_output, requests, serve

_PROVIDER = "QNN"
_ERRORS, _EVERYTHING = 3, 0
"""Levels of ONNX Runtime's log."""
_LEFT_OVER = re.compile(r"fallback to CPU EP|not selected by that EP")
"""What ONNX Runtime says when the chip does not take all nodes; it does not say which, nor why."""
_FAILED = re.compile(r"Validation FAILED(?P<unit>.*?)REASON : (?P<reason>[^\n]*)", re.DOTALL)
_NODE = re.compile(r"Node name: (?P<name>.*?) Node index")
_OWN_NAME = re.compile(r"(_token_\d+|/duplicated.*)$")
"""What ONNX Runtime adds to the names of nodes that it moves."""


class Emulator:
    """Loaded graphs by key."""

    def __init__(self) -> None:
        self._sessions: dict[str, Any] = {}
        self._device: Any = None

    def start(self, threads: int | None) -> Answer:
        """Import the runtime; keep to so many cores."""
        keep_to(threads)
        import onnxruntime
        import onnxruntime_qnn

        if self._device is None:
            onnxruntime.register_execution_provider_library(_PROVIDER, onnxruntime_qnn.get_library_path())
            self._device = next(device for device in onnxruntime.get_ep_devices() if _PROVIDER in device.ep_name)
        return {}, []

    def _session(
        self, model: Path, request: Mapping[str, Any], entries: Mapping[str, str], level: int = _ERRORS, **options: str
    ) -> Any:
        """A session of which nothing runs elsewhere than on the chip."""
        self.start(None)
        import onnxruntime
        import onnxruntime_qnn

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = level
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        for name, value in entries.items():
            settings.add_session_config_entry(name, value)
        # "0": what turns inputs and outputs into integers and back is the chip's too.
        provider = {
            "backend_path": onnxruntime_qnn.get_qnn_htp_path(), "soc_model": str(request["soc"]), "htp_arch": str(request["arch"]),
            "offload_graph_io_quantization": "0", **options,
        }  # fmt: skip
        settings.add_provider_for_devices([self._device], provider)
        return onnxruntime.InferenceSession(str(model), sess_options=settings)

    def compile(self, request: Mapping[str, Any]) -> Answer:
        """Compile ``model`` for a chip and write its ``context`` binary."""
        model = Path(request["model"])
        with tempfile.TemporaryDirectory() as scratch:
            stub = Path(scratch) / "stub.onnx"
            entries = {"ep.context_enable": "1", "ep.context_embed_mode": "0", "ep.context_file_path": str(stub)}
            try:
                self._session(model, request, entries, dump_json_qnn_graph="1", json_qnn_graph_dir=scratch)
            except Exception as error:
                reason = _first_line(error)
                # Only then: to ask is to compile all of it again.
                named = self._refusal(model, request) if _LEFT_OVER.search(reason) else None
                raise ValueError(named or reason) from error
            graph, qairt, context = _stub_facts(stub)
            description = json.loads((Path(scratch) / f"{graph}.json").read_text())["graph"]
            _demand_order(description, request["inputs"])
            Path(request["context"]).write_bytes((Path(scratch) / context).read_bytes())
            operators = Counter(node["type"] for node in description["nodes"].values())
        return {"graph": graph, "qairt": qairt, "operators": dict(operators)}, []

    def _refusal(self, model: Path, request: Mapping[str, Any]) -> str | None:
        """Which layer the NPU does not take, and why, from what the provider says when it says everything; None: that is not it."""
        with tempfile.TemporaryFile() as log:
            saved = os.dup(2)
            os.dup2(log.fileno(), 2)
            try:
                self._session(model, request, {}, _EVERYTHING)
            except Exception:
                pass
            finally:
                os.dup2(saved, 2)
                os.close(saved)
            log.seek(0)
            said = log.read().decode("utf-8", "replace")
        return refusal(said)

    def load(self, request: Mapping[str, Any]) -> Answer:
        """Load a ``context`` binary."""
        with tempfile.TemporaryDirectory() as scratch:
            stub = Path(scratch) / "stub.onnx"
            write_stub(stub, Path(request["context"]), request["graph"], request["ports"])
            self._sessions[request["key"]] = self._session(stub, request, {})
        return {}, []

    def run(self, request: Mapping[str, Any], arrays: list[Array]) -> Answer:
        """Call a graph; inputs and outputs by name."""
        session = self._sessions[request["key"]]
        names = [port.name for port in session.get_outputs()]
        return {"names": names}, session.run(names, dict(zip(request["names"], arrays, strict=True)))

    def drop(self, key: str) -> Answer:
        """Let go of a graph."""
        self._sessions.pop(key, None)
        return {}, []

    async def do(self, request: Mapping[str, Any], arrays: list[Array]) -> Answer:
        """Do what is asked."""
        match request["do"]:
            case "start":
                return self.start(request["threads"])
            case "compile":
                return self.compile(request)
            case "load":
                return self.load(request)
            case "run":
                return self.run(request, arrays)
            case "drop":
                return self.drop(request["key"])
        raise ValueError(f"unknown request {request['do']}")


def refusal(said: str) -> str | None:
    """Layer and reason of the first operator that the log of the provider says the NPU does not take."""
    found = _FAILED.search(said)
    if found is None:
        return None
    names = [_OWN_NAME.sub("", name) for name in _NODE.findall(found["unit"])]
    named = [name for name in names if "/" in name] or names or ["a node"]
    return f"the NPU does not take {named[-1]}: {found['reason'].strip()}"


def write_stub(path: Path, context: Path, graph: str, ports: Mapping[str, Any]) -> None:
    """An ONNX model that stands for a compiled graph, as ONNX Runtime writes it.

    Args:
        context: the binary; its path is noted relative to ``path`` where it lies beside it.
        ports: ``i`` and ``o``: [name, dtype, shape] of inputs and outputs.
    """
    from onnx import TensorProto, helper

    types = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    inputs, outputs = (
        [helper.make_tensor_value_info(name, types[dtype], shape) for name, dtype, shape in ports[side]] for side in "io"
    )
    if not context.is_relative_to(path.parent):
        (path.parent / context.name).symlink_to(context.resolve())
    node = helper.make_node(
        "EPContext", [port.name for port in inputs], [port.name for port in outputs], name=graph, domain="com.microsoft",
        main_context=1, embed_mode=0, ep_cache_context=context.name, source=_PROVIDER, partition_name=graph, max_size=0,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "stub", inputs, outputs), opset_imports=opsets, ir_version=10)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _stub_facts(stub: Path) -> tuple[str, str, str]:
    """Name of the graph, version of the compiler and file of the context binary."""
    import onnx

    nodes = onnx.load(stub, load_external_data=False).graph.node
    if len(nodes) != 1:
        raise ValueError(f"it was cut into {len(nodes)} parts")
    found = {attribute.name: attribute.s.decode() for attribute in nodes[0].attribute}
    return (
        found["partition_name"],
        ".".join(found["ep_sdk_version"].removeprefix("v").split(".")[:3]),
        found["ep_cache_context"],
    )


def _demand_order(description: Mapping[str, Any], inputs: list[str]) -> None:
    """Demand that the compiled graph takes its inputs in the order of the model: ExecuTorch hands them over by place."""
    ids = [description["tensors"][name]["id"] for name in inputs]
    if ids != sorted(ids):
        raise ValueError("its inputs were put into another order")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def main() -> int:
    """Entry of the process."""
    asyncio.run(serve(requests(), own_output(), Emulator().do))
    return 0


if __name__ == "__main__":
    sys.exit(main())
