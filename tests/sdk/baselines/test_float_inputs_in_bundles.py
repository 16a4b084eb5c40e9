"""Layers whose weights alone are quantized, beside others: emitted as the checkpoint has them, and verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2p_converters.core.checkpoint import QuantizedLayer, open_checkpoint
from s2p_converters.targets.conversion import convert_checkpoint
from s2p_converters.targets.registry import TARGETS
from s2p_mobile.quantize.checkpointing import write_checkpoint
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.methods import run_method
from s2p_mobile.quantize.recipes import Recipe
from s2p_mobile.sources.model import Model
from s2p_runtime.bundle import open_bundle
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.progress import Silent
from s2p_runtime.verify import verify


@pytest.fixture(scope="module")
def folder(tiny_model: Model, tiny_plan: SamplingPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe.model_validate(
        {
            "name": "mixed activations",
            "description": "for tests",
            "weights": {"bits": 4},
            "activations": {"float_share": "20%"},
            "calibration": {"prompts": 1},
        }
    )
    job = QuantizationJob(tiny_model, tiny_plan, recipe, ("a cat on a red background",), 4.0, seed=2, device="cpu")
    made = tmp_path_factory.mktemp("floats") / "checkpoint"
    made.mkdir()
    write_checkpoint(job, "rtn", run_method("rtn", job), made)
    return made


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("coreml", {"minimum_os": "iOS17"}),
        ("coreml", {"minimum_os": "iOS18"}),
        ("executorch", {}),
        ("executorch", {"scheme": "dynamic"}),
    ],
)
def test_targets_emit_exactly_these(folder: Path, target: str, options: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = open_checkpoint(folder)
    chosen = TARGETS.get(target)
    convert_checkpoint(checkpoint, chosen, chosen.options(**options), tmp_path, Silent())
    bundle = open_bundle(tmp_path)
    emitted = {layer.name: layer.activation_bits for layer in bundle.manifest.quantization.layers}
    for name, layer in checkpoint.layers.items():
        assert isinstance(layer, QuantizedLayer)
        assert emitted[name] == layer.activation_bits, name
    assert verify(bundle).ok
