"""What ExecuTorch's delegate reads, against ExecuTorch's own tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from s2p_converters.targets.executorch.qnn.program import compile_spec
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.executorch.qnn.delegate_data import ALIGNMENT, pack, unpack
from s2p_runtime.hosts.executorch.qnn.socs import SOCS

_SIGNATURE = slice(4, 12)
"""ExecuTorch signs with the time of day."""
_TOOLS = """
import json, sys
import executorch.backends.qualcomm.python.PyQnnManagerAdaptor as adaptor
from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset
from executorch.backends.qualcomm.utils.utils import generate_htp_compiler_spec, generate_qnn_executorch_compiler_spec

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
    command = [sys.executable, "-c", _TOOLS, json.dumps(list(SOCS)), str(sdk / "context"), str(sdk / "ours")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "QNN_SDK_ROOT": str(sdk)}, check=True)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_delegate_data_is_that_of_executorch_but_for_the_time_of_day(context: bytes, theirs: dict[str, object]) -> None:
    made, ours = bytes.fromhex(str(theirs["made"])), bytearray(pack(context))
    assert len(made) == ALIGNMENT + len(context) and theirs["alignment"] == ALIGNMENT
    ours[_SIGNATURE] = made[_SIGNATURE]
    assert bytes(ours) == made
    assert bytes.fromhex(str(theirs["stripped"])) == context


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
