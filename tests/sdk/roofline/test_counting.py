"""Operations against torch's own count of diffusers' networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from s2p_converters.core.checkpoint import Checkpoint, open_checkpoint
from s2p_mobile.judge.roofline.tables import published_table
from s2p_mobile.quantize.workload import checkpoint_workload
from s2p_mobile.sources.default_checkpoint import default_checkpoint
from s2p_mobile.sources.opening import open_model

SD21 = {"sample_size": 64, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
SDXL = {
    "sample_size": 96, "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20], "use_linear_projection": True,
    "block_out_channels": [320, 640, 1280], "transformer_layers_per_block": [1, 2, 10],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip


def counted(config: dict[str, Any], tokens: int) -> tuple[int, int]:
    """Operations of a call with a batch of two, and those of the time path within, which step programs have as tables."""
    with torch.device("meta"), torch.no_grad():
        unet = UNet2DConditionModel(**config)
        size = unet.config.sample_size
        more: dict[str, Any] = {}
        if unet.config.addition_embed_type == "text_time":
            more = {"added_cond_kwargs": {"text_embeds": torch.empty(2, 1280), "time_ids": torch.empty(2, 6)}}
        with FlopCounterMode(display=False) as counter:
            unet(
                torch.empty(2, unet.config.in_channels, size, size),
                torch.zeros(2, dtype=torch.int64),
                torch.empty(2, tokens, unet.config.cross_attention_dim),
                **more,
            )
    time = 0
    for name, found in counter.get_flop_counts().items():
        if name.endswith((".time_embedding", ".time_emb_proj", ".add_embedding")):
            time += sum(found.values())
    return counter.get_total_flops(), time


@pytest.mark.parametrize(("name", "config"), [("stable-diffusion-2-1-base", SD21), ("stable-diffusion-xl-base-1.0-ios", SDXL)])
def test_models_of_the_published_table(name: str, config: dict[str, Any]) -> None:
    total, _ = counted(config, 77)
    assert published_table().models[name].operations == total


@pytest.fixture(scope="module")
def demo() -> Checkpoint:
    with default_checkpoint(open_model(None)) as folder:
        return open_checkpoint(folder)


def test_a_checkpoint_s_call(demo: Checkpoint) -> None:
    work = checkpoint_workload(demo)
    config = {key: value for key, value in demo.manifest.unet_config.items() if not key.startswith("_")}
    total, time = counted(config, demo.manifest.tokenizer.max_length)
    assert work.operations == total - time
    assert work.integer_operations > 0.8 * work.operations and work.palette_operations == 0
    assert (work.batch, work.runs) == (2, len(demo.manifest.plan.calls))


def test_a_checkpoint_s_bytes(demo: Checkpoint) -> None:
    work = checkpoint_workload(demo)
    entries = {entry.name: entry.weight_bits for entry in demo.manifest.layers}
    # Two weights of up to four bits to a byte, one of more, two bytes of one in float; and a scale a channel.
    size = {2: 0.5, 4: 0.5, 6: 1, 8: 1, None: 2}
    least = sum(spec.weights * size[entries[spec.name]] for spec in demo.specs)
    assert least <= work.weight_bytes <= 1.05 * least
