"""An ExecuTorch bundle of the small model."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2p_converters.checkpoint import Checkpoint


@pytest.fixture(scope="session")
def executorch_bundle(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the converted W4A8 checkpoint."""
    pytest.importorskip("executorch")
    from s2p_converters.executorch.options import ExecuTorchOptions
    from s2p_converters.executorch.target import convert_checkpoint
    from s2p_runtime.progress import Silent

    folder = tmp_path_factory.mktemp("bundles") / "small.s2pmobile"
    folder.mkdir()
    convert_checkpoint(checkpoint, ExecuTorchOptions(), folder, Silent())
    return folder
