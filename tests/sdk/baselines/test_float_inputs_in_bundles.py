"""Layers whose weights alone are quantized, beside others: emitted as the checkpoint has them, and verified."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from s2p_converters.core.checkpoint import QuantizedLayer, open_checkpoint
from s2p_converters.targets.registry import TARGETS
from s2p_runtime.bundle import open_bundle
from s2p_runtime.verify import verify

needs_coreai = pytest.mark.skipif(find_spec("coreai_torch") is None, reason="Apple's coreai-torch is not installed")


@pytest.mark.parametrize(
    ("target", "options"),
    [
        pytest.param("coreml", {"minimum_os": "iOS17"}, marks=pytest.mark.slow),
        ("coreml", {"minimum_os": "iOS18"}),
        ("executorch", {}),
        pytest.param("executorch", {"scheme": "dynamic"}, marks=pytest.mark.slow),
        # What its U-Net is made of: tests/converters/coreai/test_structure.py.
        pytest.param("coreai", {}, marks=(pytest.mark.slow, needs_coreai)),
    ],
)
def test_targets_emit_exactly_these(
    float_inputs_checkpoint: Path, convert: Callable[..., Path], target: str, options: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(float_inputs_checkpoint)
    bundle = open_bundle(convert(checkpoint, TARGETS.get(target).options(**options), tmp_path))
    emitted = {layer.name: layer.activation_bits for layer in bundle.manifest.quantization.layers}
    for name, layer in checkpoint.layers.items():
        assert isinstance(layer, QuantizedLayer)
        assert emitted[name] == layer.activation_bits, name
    assert verify(bundle).ok
