"""What a conversion takes is foreseen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from s2p_converters.core.checkpoint import open_checkpoint
from s2p_converters.core.graph import UNetStructure
from s2p_converters.targets.coreml.needs import largest_scores
from s2p_converters.targets.registry import TARGETS
from s2p_mobile.cli.app import run
from s2p_mobile.sources.default_checkpoint import default_checkpoint
from s2p_mobile.sources.opening import open_model


class _Full:
    free = 10


@pytest.mark.parametrize("target", ["coreml", "executorch"])
@pytest.mark.parametrize(("what", "message"), [("memory", "of memory and 0.0 GiB are free"), ("disk", "of disk and 0.0 GiB")])
def test_too_little_is_said_before_anything_is_written(
    target: str, what: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "memory":
        monkeypatch.setattr("s2p_converters.core.resources.available_memory", lambda: 1 << 20)
    else:
        monkeypatch.setattr("shutil.disk_usage", lambda _: _Full)
    assert run(["convert", "--target", target, "--out", str(tmp_path / "out")]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0] and "; " in errors[0]
    assert not list(tmp_path.iterdir())


def test_the_demo_model_fits_everywhere() -> None:
    """Sizes from docs/results.md: packages of 3.0 and 4.6 MB, of the whole bundle about as much again."""
    with default_checkpoint(open_model(None)) as folder:
        checkpoint = open_checkpoint(folder)
        targets = [TARGETS.get(name) for name in ("coreml", "executorch")]
        coreml, executorch = (target.disk(checkpoint, target.options()) for target in targets)
        assert 3.0e6 < coreml < executorch < 20e6
        # More than torch alone takes, less than a small machine has.
        assert all(2**29 < target.memory(checkpoint, target.options()) < 2**31 for target in targets)


@pytest.mark.parametrize(
    "unet",
    [
        {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")},
        {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")},
    ],
)
def test_largest_attention_is_that_of_diffusers(unet: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = UNet2DConditionModel(
        sample_size=12,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=(2, 4),
        **unet,
    )
    seen: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watch(query: torch.Tensor, key: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        seen.append(query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2])
        return attend(query, key, *rest, **options)

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", watch)
    with torch.no_grad():
        model(torch.zeros(2, 4, 12, 12), 1, torch.zeros(2, 5, 16))
    assert largest_scores(UNetStructure.from_config(model.config), 2) == max(seen)
