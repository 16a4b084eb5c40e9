"""The tests of Snapdragon's NPU need Qualcomm's packages, which exist for Linux on x86_64 alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from s2p_converters.core.checkpoint import Checkpoint
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.executorch.qnn.engine import QnnEngine, require_engine


@pytest.fixture(scope="session", autouse=True)
def qualcomms_packages() -> None:
    try:
        require_engine()
    except S2PError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def engine() -> Iterator[QnnEngine]:
    """Qualcomm's compiler and emulator in a process of their own."""
    opened = QnnEngine(time_limit=300.0)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def qnn_bundle(checkpoint: Checkpoint, convert: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The W4A8 checkpoint for two chips, with what ONNX Runtime loads."""
    from s2p_converters.targets.executorch.options import ExecuTorchOptions

    folder = tmp_path_factory.mktemp("bundles") / "small-qnn.s2pmobile"
    # Layers alone have tests of their own.
    options = ExecuTorchOptions(backend="qnn", soc="SM8650,SM8750", runtime="onnxruntime", self_check=False)
    return convert(checkpoint, options, folder)
