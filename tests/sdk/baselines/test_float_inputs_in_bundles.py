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
QNN = (pytest.mark.slow, pytest.mark.skipif(find_spec("onnxruntime_qnn") is None, reason="no onnxruntime-qnn"))
AS_THEY_ARE: dict[int | None, int | None] = {8: 8, None: None}


@pytest.mark.parametrize(
    ("target", "options", "bits"),
    [
        pytest.param("coreml", {"minimum_os": "iOS17"}, AS_THEY_ARE, marks=pytest.mark.slow),
        ("coreml", {"minimum_os": "iOS18"}, AS_THEY_ARE),
        ("executorch", {}, AS_THEY_ARE),
        pytest.param("executorch", {"scheme": "dynamic"}, AS_THEY_ARE, marks=pytest.mark.slow),
        # Integers take integers there: 16 bits stand for float.
        pytest.param("executorch", {"backend": "qnn"}, {8: 16, None: 16}, marks=QNN),
        pytest.param("executorch", {"backend": "qnn", "activations": "uint8"}, {8: 8, None: 16}, marks=QNN),
        # What its U-Net is made of: tests/converters/coreai/test_structure.py.
        pytest.param("coreai", {}, AS_THEY_ARE, marks=(pytest.mark.slow, needs_coreai)),
    ],
)
def test_targets_emit_exactly_these(
    float_inputs_checkpoint: Path,
    convert: Callable[..., Path],
    target: str,
    options: dict[str, Any],
    bits: dict[int | None, int | None],
    tmp_path: Path,
) -> None:
    """``bits``: of the activations of a layer in the bundle, by those in the checkpoint."""
    checkpoint = open_checkpoint(float_inputs_checkpoint)
    bundle = open_bundle(convert(checkpoint, TARGETS.get(target).options(**options), tmp_path))
    emitted = {layer.name: layer.activation_bits for layer in bundle.manifest.quantization.layers}
    for name, layer in checkpoint.layers.items():
        assert isinstance(layer, QuantizedLayer)
        assert emitted[name] == bits[layer.activation_bits], name
    assert {layer.activation_bits for layer in checkpoint.layers.values()} == set(bits)
    assert verify(bundle).ok
