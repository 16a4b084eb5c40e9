"""What ExecuTorch's delegate reads, against ExecuTorch's own tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from s2p_converters.targets.executorch.qnn.program import compile_spec, wrap
from s2p_converters.targets.ports import tensor
from s2p_runtime.component import TensorSpec
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.executorch.qnn.delegate_data import ALIGNMENT, pack, unpack
from s2p_runtime.hosts.executorch.qnn.socs import SOCS

_SIGNATURE = slice(4, 12)
"""ExecuTorch signs with the time of day."""
INPUTS = (tensor("sample", (2, 4, 8, 8)), TensorSpec(name="step", dtype="int32", shape=(1,)))
OUTPUTS = (tensor("noise_pred", (2, 4, 8, 8)), tensor("hidden", (2, 3)))
GRAPH = "QNN_QNN_1_0"
_TOOLS = """
import json, sys
from unittest.mock import MagicMock
import executorch.backends.qualcomm.partition.qnn_partitioner as partitioner
import executorch.backends.qualcomm.python.PyQnnManagerAdaptor as adaptor
import executorch.backends.qualcomm.qnn_preprocess as preprocess
from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset
from executorch.backends.qualcomm.utils.utils import (
    from_context_binary, generate_htp_compiler_spec, generate_qnn_executorch_compiler_spec,
)
from executorch.exir import ExecutorchBackendConfig

class Port:
    def __init__(self, name, dtype, shape):
        self.name, self.kind, self.shape = name, {"float32": "FLOAT_32", "int32": "INT_32"}[dtype], shape
    def GetName(self):
        return self.name
    def GetDims(self):
        return self.shape
    def GetDataType(self):
        return getattr(adaptor.Qnn_DataType_t, f"QNN_DATATYPE_{self.kind}")

context, ours = (open(path, "rb").read() for path in sys.argv[2:4])
specs = {}
for name in json.loads(sys.argv[1]):
    options = generate_htp_compiler_spec(use_fp16=False)
    chip = getattr(QcomChipset, name)
    (spec,) = generate_qnn_executorch_compiler_spec(chip, options, is_from_context_binary=True)
    specs[name] = spec.value.hex()
made = bytes(adaptor.QnnManager(bytes.fromhex(specs[name])).MakeBinaryInfo(context))
found = {"specs": specs, "made": made.hex(), "stripped": bytes(adaptor.StripProtocol(ours)).hex()}
found["alignment"] = adaptor.GetQNNCtxBinAlignment()
# They ask the whole SDK for a backend, and then nothing of it: the graph is one node that holds the binary.
manager = MagicMock()
partitioner.get_current_qnn_manager = preprocess.get_current_qnn_manager = lambda *_, **__: manager
graph, *ports = json.loads(sys.argv[4])
facts = {"graph_name": graph, "graph_inputs": [Port(*p) for p in ports[0]], "graph_outputs": [Port(*p) for p in ports[1]]}
info = from_context_binary(sys.argv[2], "ctx_loader_it", QcomChipset.SM8650, custom_info=facts)
config = ExecutorchBackendConfig(segment_alignment=found["alignment"])
with open(sys.argv[5], "wb") as file:
    file.write(info["edge_program_manager"].to_executorch(config).buffer)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def context() -> bytes:
    return bytes(range(256)) * 40 + b"end"


@pytest.fixture(scope="module")
def theirs(context: bytes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What ExecuTorch's tools make of the same, in a process of their own: their import switches settings of torch."""
    pytest.importorskip("cpuinfo", reason="ExecuTorch's tools for QNN need py-cpuinfo")
    package = find_spec("onnxruntime_qnn")
    assert package is not None and package.origin is not None
    sdk = tmp_path_factory.mktemp("sdk")
    place = sdk / "lib/x86_64-linux-clang"
    place.parent.mkdir()
    place.symlink_to(Path(package.origin).parent)
    (sdk / "context").write_bytes(context)
    (sdk / "ours").write_bytes(pack(context))
    graph = [GRAPH, *([[port.name, port.dtype, port.shape] for port in ports] for ports in (INPUTS, OUTPUTS))]
    command = [sys.executable, "-c", _TOOLS, json.dumps(list(SOCS)), str(sdk / "context"), str(sdk / "ours"), json.dumps(graph)]
    command.append(str(sdk / "theirs.pte"))
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "QNN_SDK_ROOT": str(sdk)}, check=True)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "program": (sdk / "theirs.pte").read_bytes()}


def test_delegate_data_is_that_of_executorch_but_for_the_time_of_day(context: bytes, theirs: dict[str, object]) -> None:
    made, ours = bytes.fromhex(str(theirs["made"])), bytearray(pack(context))
    assert len(made) == ALIGNMENT + len(context) and theirs["alignment"] == ALIGNMENT
    ours[_SIGNATURE] = made[_SIGNATURE]
    assert bytes(ours) == made
    assert bytes.fromhex(str(theirs["stripped"])) == context


def test_the_whole_program_is_that_of_executorch_but_for_the_time_of_day(context: bytes, theirs: dict[str, object]) -> None:
    """``from_context_binary``, with the graph's ports told: its own reading of them asks Qualcomm's SDK for a device, which the
    libraries in onnxruntime-qnn do not give it."""
    made, ours = theirs["program"], bytearray(wrap(context, GRAPH, SOCS["SM8650"], INPUTS, OUTPUTS))
    assert isinstance(made, bytes)
    (start,) = (place for place in range(0, len(ours), ALIGNMENT) if ours[place : place + 4] == pack(context)[:4])
    signature = slice(start + _SIGNATURE.start, start + _SIGNATURE.stop)
    assert ours[signature] != made[signature]
    ours[signature] = made[signature]
    assert bytes(ours) == made


@pytest.mark.parametrize("name", SOCS)
def test_compile_specs_are_those_of_executorch(name: str, theirs: dict[str, object]) -> None:
    specs = theirs["specs"]
    assert isinstance(specs, dict)
    assert compile_spec(SOCS[name]).hex() == specs[name]


def test_equal_binaries_have_equal_bytes_and_others_another_signature(context: bytes) -> None:
    assert pack(context) == pack(context)
    assert pack(context)[_SIGNATURE] != pack(context + b"x")[_SIGNATURE]
    assert unpack(pack(context)) == context


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: b"x" + data, lambda data: data[:3], lambda data: b""])
def test_other_data_are_refused(spoil: object, context: bytes) -> None:
    assert callable(spoil)
    with pytest.raises(S2PError, match="no context binary of QNN"):
        unpack(spoil(pack(context)))
