"""The step graph against diffusers' own U-Net."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, UNet2DConditionModel

from s2p_converters.core.graph import (
    GivenRows,
    Operators,
    StepTables,
    StepUNet,
    UNetStructure,
    layer_specs,
    resnet_names,
    split_shortcuts,
)
from s2p_converters.core.plan import plan_for
from s2p_mobile.demo import DEMO_MODEL
from s2p_mobile.sources.guidance import fold_guidance
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.time_tables import time_network, time_tables
from s2p_runtime.errors import S2PError

CONFIGS = {
    "sd1-like": {},
    "linear projection, heads per block": {"use_linear_projection": True, "attention_head_dim": (2, 3)},
    "two layers, two transformer layers": {"layers_per_block": 2, "transformer_layers_per_block": 2},
    "no mid block": {"mid_block_type": None},
    "nine input channels": {"in_channels": 9},
    "asymmetric downsampling": {"downsample_padding": 0},
    "other kernels": {"conv_in_kernel": 1, "conv_out_kernel": 5},
    "sd2-like": {
        "use_linear_projection": True,
        "attention_head_dim": (2, 4),
        "upcast_attention": True,
        "block_out_channels": (16, 32),
    },
    "BK-SDM-like: three levels, one layer, no mid block": {
        "block_out_channels": (8, 16, 24),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3,
        "mid_block_type": None,
    },
    "layers per block": {"layers_per_block": (1, 2)},
    "attention to the text only, in some blocks": {
        "only_cross_attention": (True, False),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    },
    "depths of the way up": {
        "transformer_layers_per_block": ((2, 1), 1),
        "reverse_transformer_layers_per_block": (1, (1, 3, 2)),
        "layers_per_block": 2,
        "mid_block_type": None,
    },
    "depths of the last level and the middle": {
        "transformer_layers_per_block": (1, (2, 1)),
        "reverse_transformer_layers_per_block": ((1, 3, 2), 1),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "activation after the time embedding": {"time_embedding_act_fn": "silu", "timestep_post_act": "mish"},
    "time embedding of another shape": {"time_embedding_dim": 24, "flip_sin_to_cos": False, "freq_shift": 1},
}
SDXL = {
    "block_out_channels": (8, 16, 24),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 3),
    "attention_head_dim": (1, 2, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 12,
}


def diffusers_unet(**changes: object) -> UNet2DConditionModel:
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "sample_size": 8,
        "block_out_channels": (16, 24),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 20,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**settings, **changes}).eval()


def step_graph(unet: UNet2DConditionModel, timesteps: list[float], split: bool = False) -> StepUNet:
    structure = replace(UNetStructure.from_config(dict(unet.config)), split_shortcuts=split)
    graph = StepUNet(structure, StepTables(time_tables(unet, timesteps)), Operators())
    loaded = graph.load_state_dict(split_shortcuts(unet.state_dict(), structure), strict=False)
    assert loaded.missing_keys == ["tables.matrix"]
    return graph.eval()


@torch.no_grad()
@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())
def test_equals_diffusers_at_every_call(changes: dict[str, object], split: bool) -> None:
    unet = diffusers_unet(**changes)
    timesteps = [981.0, 500.5, 1.0]
    graph = step_graph(unet, timesteps, split).double()
    reference = unet.double()
    for call, timestep in enumerate(timesteps):
        sample = torch.randn(2, unet.config.in_channels, 8, 8, dtype=torch.float64)
        text = torch.randn(2, 5, 20, dtype=torch.float64)
        expected = reference(sample, timestep, text).sample
        error = (graph(sample, torch.tensor([call]), text) - expected).norm() / expected.norm()
        # Tables are float32 (6e-8 each) and diffusers computes the sinusoid in float32; all else is float64.
        assert error < 1e-6


def test_split_shortcuts_see_the_state_and_the_skip() -> None:
    unet = diffusers_unet(layers_per_block=2)
    graph, seen = step_graph(unet, [5.0], split=True), {}
    originals: dict[str, torch.Tensor] = {}

    def keep(where: dict[str, torch.Tensor], name: str) -> Callable[..., None]:
        return lambda module, args: where.__setitem__(name, args[0])

    for name, module in graph.named_modules():
        if ".conv_shortcut." in name:
            module.register_forward_pre_hook(keep(seen, name))
    for name, module in unet.named_modules():
        if name.startswith("up_blocks") and name.endswith("conv_shortcut"):
            module.register_forward_pre_hook(keep(originals, name))
    sample, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 20)
    with torch.no_grad():
        graph(sample, torch.tensor([0]), text)
        unet(sample, 5.0, text)
    # Every resnet of an up block changes the number of channels here: three for each of two blocks.
    assert len(originals) == 6 and len(seen) == 12
    weights = dict(graph.named_parameters())
    for name, whole in originals.items():
        parts = [seen[f"{name}.{part}"] for part in (0, 1)]
        # A resnet's output or the block before, and what the way down left: here as many channels as the level has.
        assert [part.shape[1] for part in parts] == [whole.shape[1] - parts[1].shape[1], parts[1].shape[1]]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)
        joined = torch.cat([weights[f"{name}.{part}.weight"] for part in (0, 1)], dim=1)
        assert torch.equal(joined, unet.get_parameter(f"{name}.weight"))
        assert torch.equal(weights[f"{name}.0.bias"], unet.get_parameter(f"{name}.bias")) and f"{name}.1.bias" not in weights
    # Channels of the skips, last pushed first: down blocks of 16 and 24 channels, two resnets each, behind conv_in (16).
    skips = [seen[f"up_blocks.{b}.resnets.{j}.conv_shortcut.1"].shape[1] for b in (0, 1) for j in (0, 1, 2)]
    assert skips == [24, 24, 16, 16, 16, 16]


@torch.no_grad()
def test_sdxl_equals_diffusers_at_every_call() -> None:
    unet = diffusers_unet(**SDXL)
    timesteps = [981.0, 500.5, 1.0]
    network = time_network(unet, timesteps)
    structure = UNetStructure.from_config(dict(unet.config))
    assert structure.text_time is not None and structure.text_time.pooled_dim == 12
    graph = StepUNet(structure, StepTables({}, GivenRows(network.names, network.widths)), Operators())
    # A matrix without columns: every row comes from the prompt.
    assert graph.load_state_dict(unet.state_dict(), strict=False).missing_keys == ["tables.matrix"]
    assert dict(zip(network.names, network.widths, strict=True)) == {
        f"{name}.time": width for name, width in resnet_names(structure).items()
    }
    graph, reference = graph.double().eval(), unet.double()
    pooled = torch.randn(2, 12, dtype=torch.float64)
    time_ids = torch.tensor([[1024.0, 768.0, 0.0, 16.0, 1024.0, 768.0], [512.0, 512.0, 8.0, 0.0, 1024.0, 1024.0]])
    table = network(pooled, time_ids)
    assert table.shape == (2, 3, sum(network.widths))
    outputs = []
    for call, timestep in enumerate(timesteps):
        sample = torch.randn(2, 4, 8, 8, dtype=torch.float64)
        text = torch.randn(2, 5, 20, dtype=torch.float64)
        conditions = {"text_embeds": pooled, "time_ids": time_ids}
        expected = reference(sample, timestep, text, added_cond_kwargs=conditions).sample
        outputs.append(graph(sample, torch.tensor([call]), text, table))
        # diffusers computes the sinusoids in float32; all else is float64 on both sides.
        assert (outputs[-1] - expected).norm() / expected.norm() < 1e-6
    together = graph(sample, torch.tensor([2, 0]), text, table)
    torch.testing.assert_close(together[:1], outputs[-1][:1])
    torch.testing.assert_close(together[1:], graph(sample[1:], torch.tensor([0]), text[1:], table[1:]))


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 8.5])
def test_latent_consistency_model_equals_diffusers_at_every_call(guidance: float) -> None:
    unet = diffusers_unet(time_cond_proj_dim=12)
    timesteps = [999.0, 499.0]
    folded = copy.deepcopy(unet)
    fold_guidance(folded, guidance)
    graph = step_graph(folded, timesteps).double()
    embedding = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, torch.tensor([guidance - 1]), 12).double()
    reference = unet.double()
    for call, timestep in enumerate(timesteps):
        sample, text = torch.randn(1, 4, 8, 8, dtype=torch.float64), torch.randn(1, 5, 20, dtype=torch.float64)
        expected = reference(sample, timestep, text, timestep_cond=embedding).sample
        # The folded bias is float32, as the tables are.
        assert (graph(sample, torch.tensor([call]), text) - expected).norm() / expected.norm() < 1e-6


@torch.no_grad()
def test_demo_model_equals_diffusers_at_every_call_of_its_plan() -> None:
    model = Model(DEMO_MODEL)
    plan = plan_for(DEMO_MODEL / "scheduler", None, 25)
    graph = step_graph(model.unet, plan.timesteps)
    sample, text = torch.randn(2, 4, 16, 16), torch.randn(2, 16, 128)
    for call, timestep in enumerate(plan.timesteps):
        expected = model.unet(sample, timestep, text).sample
        assert (graph(sample, torch.tensor([call]), text) - expected).norm() / expected.norm() < 1e-6


@torch.no_grad()
def test_each_sample_may_have_its_own_step() -> None:
    graph = step_graph(diffusers_unet(), [900.0, 500.0, 100.0])
    sample, text = torch.randn(3, 4, 8, 8), torch.randn(3, 5, 20)
    together = graph(sample, torch.tensor([2, 0, 1]), text)
    for row, call in enumerate((2, 0, 1)):
        alone = graph(sample[row : row + 1], torch.tensor([call]), text[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_time_path_is_gone_and_nothing_else() -> None:
    unet = diffusers_unet()
    graph = step_graph(unet, [1.0])
    left = set(unet.state_dict()) - {name for name, _ in graph.named_parameters()}
    assert left and all("time_emb" in name for name in left)
    layers = {n for n, m in unet.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear) and "time_emb" not in n}
    assert layer_specs(graph.structure)[0].name == "conv_in"
    assert {spec.name for spec in layer_specs(graph.structure)} == layers


def test_layers_are_listed_in_the_order_in_which_they_run() -> None:
    graph = step_graph(diffusers_unet(), [1.0])
    order: list[str] = []
    names = {spec.name for spec in layer_specs(graph.structure)}
    for name, module in graph.named_modules():
        if name in names:
            module.register_forward_pre_hook(lambda *_, n=name: order.append(n))
    graph(torch.zeros(1, 4, 8, 8), torch.tensor([0]), torch.zeros(1, 5, 20))
    assert sorted(order) == sorted(names)
    blocks = [name.rsplit(".resnets", 1)[0].rsplit(".attentions", 1)[0] for name in order]
    listed = [s.name.rsplit(".resnets", 1)[0].rsplit(".attentions", 1)[0] for s in layer_specs(graph.structure)]
    assert list(dict.fromkeys(blocks)) == list(dict.fromkeys(listed))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}, "AttnDownBlock2D"),
        ({"up_block_types": ["UpBlock2D", "SimpleCrossAttnUpBlock2D"]}, "SimpleCrossAttnUpBlock2D"),
        ({"mid_block_type": "UNetMidBlock2D"}, "UNetMidBlock2D"),
        ({"addition_embed_type": "image"}, "addition_embed_type"),
        ({**SDXL, "time_embedding_act_fn": "silu"}, "time_embedding_act_fn"),
        ({"norm_num_groups": None}, "norm_num_groups"),
        ({"block_out_channels": [16, 24, 32]}, "down_block_types"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"),
        ({"_class_name": "UNet3DConditionModel"}, "UNet3DConditionModel"),
        ({"cross_attention_dim": [20, 24]}, "cross_attention_dim"),
        *(({"sample_size": size}, "has sample_size = .* neither") for size in ("8", 8.0, True, 0, [8], [8, "8"], [8, 8, 8])),
    ],
)
def test_what_the_graph_cannot_build_is_refused_by_name(change: dict[str, object], named: str) -> None:
    config = {**dict(diffusers_unet().config), **change}
    with pytest.raises(S2PError, match=named):
        UNetStructure.from_config(config)


def test_incomplete_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(S2PError, match=r"unet/config\.json is incomplete"):
        UNetStructure.from_config({"_class_name": "UNet2DConditionModel"})
