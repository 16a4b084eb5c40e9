"""What single files say of themselves: predictions, noise schedules, sizes, scales of eight-bit weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from safetensors.torch import save_file

from s2p_mobile.sources.markers import Told, read_markers
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.original_yaml import read_original
from s2p_mobile.sources.pixel_size import PixelSize
from s2p_mobile.sources.scaled_fp8 import plain_numbers
from s2p_runtime.errors import S2PError

Original = Callable[[str], tuple[Model, dict[str, torch.Tensor]]]
FP8 = torch.float8_e4m3fn
V1 = """
model:
  base_learning_rate: 1.0e-04
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    num_timesteps_cond: 1
    log_every_t: 200
    timesteps: 1000
    first_stage_key: "jpg"
    cond_stage_key: "txt"
    image_size: 64
    channels: 4
    cond_stage_trainable: false
    conditioning_key: crossattn
    monitor: val/loss_simple_ema
    scale_factor: 0.18215
    use_ema: False
    scheduler_config: {target: ldm.lr_scheduler.LambdaLinearScheduler, params: {warm_up_steps: [10000]}}
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params: {image_size: 32, in_channels: 4, out_channels: 4, model_channels: 320, attention_resolutions: [4, 2, 1],
        num_res_blocks: 2, channel_mult: [1, 2, 4, 4], num_heads: 8, use_spatial_transformer: True, transformer_depth: 1,
        context_dim: 768, use_checkpoint: True, legacy: False}
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        monitor: val/rec_loss
        ddconfig: {double_z: true, z_channels: 4, resolution: 256, in_channels: 3, out_ch: 3, ch: 128, ch_mult: [1, 2, 4, 4],
          num_res_blocks: 2, attn_resolutions: [], dropout: 0.0}
        lossconfig: {target: torch.nn.Identity}
    cond_stage_config: {target: ldm.modules.encoders.modules.FrozenCLIPEmbedder}
"""
"""Stable Diffusion 1's own, as CompVis published it."""
XL = """
model:
  target: sgm.models.diffusion.DiffusionEngine
  params:
    scale_factor: 0.13025
    disable_first_stage_autocast: True
    denoiser_config:
      target: sgm.modules.diffusionmodules.denoiser.DiscreteDenoiser
      params:
        num_idx: 1000
        weighting_config: {target: sgm.modules.diffusionmodules.denoiser_weighting.EpsWeighting}
        scaling_config: {target: sgm.modules.diffusionmodules.denoiser_scaling.EpsScaling}
        discretization_config: {target: sgm.modules.diffusionmodules.discretizer.LegacyDDPMDiscretization}
    network_config:
      target: sgm.modules.diffusionmodules.openaimodel.UNetModel
      params: {adm_in_channels: 2816, num_classes: sequential, use_checkpoint: True, in_channels: 4, out_channels: 4,
        model_channels: 320, attention_resolutions: [4, 2], num_res_blocks: 2, channel_mult: [1, 2, 4], num_head_channels: 64,
        use_linear_in_transformer: True, transformer_depth: [1, 2, 10], context_dim: 2048,
        spatial_transformer_attn_type: softmax-xformers}
    conditioner_config:
      target: sgm.modules.GeneralConditioner
      params:
        emb_models:
          - {is_trainable: False, input_key: txt, target: sgm.modules.encoders.modules.FrozenCLIPEmbedder,
             params: {layer: hidden, layer_idx: 11}}
          - {is_trainable: False, input_key: txt, target: sgm.modules.encoders.modules.FrozenOpenCLIPEmbedder2,
             params: {arch: ViT-bigG-14, layer: penultimate, always_return_pooled: True, legacy: False}}
          - {input_key: crop_coords_top_left, target: sgm.modules.encoders.modules.ConcatTimestepEmbedderND, params: {outdim: 256}}
    first_stage_config: {target: sgm.models.autoencoder.AutoencoderKLInferenceWrapper, params: {embed_dim: 4}}
"""
"""SDXL's own, as Stability published it."""


def told(path: Path, metadata: dict[str, str], keys: list[str], family: str = "sd1") -> Told:
    return read_markers(path, metadata, keys, family)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(
    ("metadata", "keys", "prediction"),
    [
        ({"modelspec.prediction_type": "v"}, [], "v_prediction"),
        ({"modelspec.prediction_type": "epsilon"}, [], "epsilon"),
        ({"modelspec.predict_key": "v"}, [], "v_prediction"),
        ({"modelspec.predict_key": "epsilon"}, [], "epsilon"),
        ({}, ["v_pred"], "v_prediction"),
        ({"v_pred": ""}, [], "v_prediction"),
        ({"v_pred": "True"}, [], "v_prediction"),
        ({"v_pred": "False", "modelspec.predict_key": "epsilon"}, [], "epsilon"),
        ({"ss_v_parameterization": "True"}, [], "v_prediction"),
        ({"ss_v_parameterization": "False"}, [], "epsilon"),
        ({"ss_base_model_version": "sd_v2_v"}, [], "v_prediction"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, [], "v_prediction"),
        ({"modelspec.architecture": "stable-diffusion-v2-512"}, [], "epsilon"),
        ({"modelspec.prediction_type": "v", "ss_v_parameterization": "true"}, ["v_pred"], "v_prediction"),
    ],
)
def test_what_a_file_predicts(family: str, metadata: dict[str, str], keys: list[str], prediction: str) -> None:
    found = told(Path("a.safetensors"), metadata, keys, family)
    assert found.prediction == prediction == found.scheduler_config(family)["prediction_type"]


@pytest.mark.parametrize(
    ("metadata", "keys", "words"),
    [
        ({"modelspec.prediction_type": "epsilon"}, ["v_pred"], r"predicts v_prediction \(v_pred\) and epsilon \(modelspec"),
        ({"modelspec.prediction_type": "v", "ss_v_parameterization": "False"}, [], "and epsilon"),
        ({"modelspec.prediction_type": "velocity"}, [], "predicts 'velocity'"),
        (
            {"modelspec.predict_key": "v", "ss_v_parameterization": "False"},
            [],
            r"v_prediction \(modelspec\.predict_key\) and eps",
        ),
        ({"modelspec.predict_key": "edm"}, [], r"predicts 'edm' \(modelspec\.predict_key\)"),
        ({}, ["ztsnr"], "ends in noise alone"),
        ({"ztsnr": ""}, [], "ends in noise alone"),
        ({"ss_zero_terminal_snr": "True"}, [], "ends in noise alone"),
        ({}, ["edm_mean", "edm_std"], "Playground v2.5"),
        ({}, ["edm_vpred.sigma_max", "edm_vpred.sigma_min"], "CosXL"),
    ],
)
def test_marks_that_cannot_be_followed_are_refused(metadata: dict[str, str], keys: list[str], words: str) -> None:
    with pytest.raises(S2PError, match=words) as caught:
        told(Path("a.safetensors"), metadata, keys)
    assert "scheduler`" not in str(caught.value)


@pytest.mark.parametrize(("family", "kind"), [("sd1", DDIMScheduler), ("sd2", DDIMScheduler), ("sdxl", EulerDiscreteScheduler)])
def test_a_zero_terminal_snr_reaches_diffusers_scheduler(family: str, kind: Any) -> None:
    config = told(Path("a.safetensors"), {}, ["v_pred", "ztsnr"], family).scheduler_config(family)
    assert config == told(Path("a.safetensors"), {"v_pred": "", "ztsnr": "true"}, [], family).scheduler_config(family)
    scheduler = kind.from_config(config)
    assert config["_class_name"] == kind.__name__
    # Without signal; Euler in diffusers puts 2**-24 there, whose sigma is finite.
    assert scheduler.alphas_cumprod[-1] == (0 if kind is DDIMScheduler else 2**-24)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps[0] == 999


def test_the_markers_of_a_file_are_followed(original: Original, tmp_path: Path) -> None:
    _, tensors = original("sd1")
    save_file(
        tensors | {"v_pred": torch.zeros(0), "scale_factor": torch.tensor(0.25)},
        tmp_path / "a.safetensors",
        metadata={"modelspec.resolution": "48x32"},
    )
    config = yaml.safe_load(V1)
    config["model"]["params"] |= {"parameterization": "v", "linear_start": 0.001, "linear_end": "2e-2", "timesteps": 500}
    config["model"]["params"]["unet_config"]["params"]["num_heads"] = 4
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    model = open_model(tmp_path / "a.safetensors")
    scheduler = json.loads((model.folder / "scheduler" / "scheduler_config.json").read_text())
    expected = {"prediction_type": "v_prediction", "beta_start": 0.001, "beta_end": 0.02, "num_train_timesteps": 500}
    assert {name: scheduler[name] for name in expected} == expected
    assert scheduler["_class_name"] == "PNDMScheduler" and scheduler["beta_schedule"] == "scaled_linear"
    assert model.picture_size == PixelSize(48, 32)
    assert model.latents.scaling_factor == 0.25 and model.unet.config.attention_head_dim == 4


@pytest.mark.parametrize(
    ("family", "resolution", "prediction", "expected"),
    [
        ("sd1", "", "v", 64), ("sd2", "", "v", 96), ("sd2", "", "epsilon", 64), ("sdxl", "", "v", 128),
        ("sd1", "768x768", "epsilon", 96), ("sd1", "512", "epsilon", 64), ("sdxl", "1024x832", "epsilon", [104, 128]),
        ("sd1", "500x500", "epsilon", 64), ("sd1", "0x0", "epsilon", 64), ("sd1", "large", "epsilon", 64),
    ],
)  # fmt: skip
def test_sizes(family: str, resolution: str, prediction: str, expected: int | list[int]) -> None:
    metadata = {"modelspec.resolution": resolution, "modelspec.prediction_type": prediction}
    assert told(Path("a.safetensors"), metadata, [], family).sample_size(family, factor=8, levels=4) == expected


@pytest.mark.parametrize(("text", "scale", "heads"), [(V1, 0.18215, (8, None)), (XL, 0.13025, (None, 64))])
def test_published_configurations_are_understood(
    tmp_path: Path, text: str, scale: float, heads: tuple[int | None, ...]
) -> None:
    (tmp_path / "a.yaml").write_text(text)
    found = read_original(tmp_path / "a.yaml")
    assert found.scale_factor == scale and found.heads is not None and (found.heads.count, found.heads.channels) == heads
    assert found.prediction == (None if text is V1 else "epsilon") and dict(found.betas)["num_train_timesteps"] == 1000


@pytest.mark.parametrize(
    ("text", "place", "value", "words"),
    [
        (V1, "parameterization", "x0", "parameterization is x0"),
        (V1, "beta_schedule", "cosine", "beta_schedule is cosine"),
        (V1, "conditioning_key", "hybrid", "conditioning_key is hybrid"),
        (V1, "new_noise", 0.1, "new_noise is 0.1"),
        (V1, "unet_config.params.use_scale_shift_norm", True, "use_scale_shift_norm is True"),
        (V1, "unet_config.target", "m.VideoUNet3D", "the U-Net's class is m.VideoUNet3D"),
        (V1, "first_stage_config.target", "ldm.models.autoencoder.VQModel", "the VAE's class is"),
        (V1, "first_stage_config.params.ddconfig.attn_resolutions", [16], "attn_resolutions is"),
        (V1, "cond_stage_config.target", "ldm.modules.encoders.xlmr.BertSeriesModel", "the text encoder's class is"),
        (V1, "cond_stage_config.params", {"layer": "hidden", "layer_idx": -2}, "text encoder's layer is hidden -2"),
        (XL, "denoiser_config.params.scaling_config.target", "sgm.x.EDMScaling", "scaling_config is sgm.x.EDMScaling"),
        (XL, "denoiser_config.params.discretization_config.target", "sgm.x.EDMDiscretization", "discretization_config is"),
    ],
)
def test_settings_that_are_not_understood_are_refused(tmp_path: Path, text: str, place: str, value: Any, words: str) -> None:
    config = yaml.safe_load(text)
    *path, last = place.split(".")
    at = config["model"]["params"]
    for name in path:
        at = at[name]
    at[last] = value
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(S2PError, match=words) as caught:
        read_original(tmp_path / "a.yaml")
    assert str(tmp_path / "a.yaml") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "x: y", "model: {params: 3}", "[", "a: &a [*a]", "model: {params: {linear_start: [1]}}", "#" * (1 << 20) + "#"]
)
def test_what_is_no_configuration_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(S2PError, match="is no configuration of a Stable Diffusion model"):
        read_original(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("scale", "of_input", "mark"),
    [("scale_weight", "scale_input", "scaled_fp8"), ("weight_scale", "input_scale", "comfy_quant")],
)
def test_eight_bit_weights_are_the_numbers_that_they_stand_for(
    original: Original, tmp_path: Path, scale: str, of_input: str, mark: str
) -> None:
    _, tensors = original("sd1")
    layer = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k"
    convolution = "model.diffusion_model.input_blocks.0.0"
    weight, plain = (tensors[layer + ".weight"] / 0.002).to(FP8), tensors[convolution + ".weight"].to(torch.float8_e5m2)
    eight = tensors | {layer + ".weight": weight, convolution + ".weight": plain}
    eight |= {f"{layer}.{scale}": torch.tensor(0.002), f"{layer}.{of_input}": torch.tensor(0.5)}
    if mark == "scaled_fp8":
        eight["model.diffusion_model.scaled_fp8"] = torch.zeros(2, dtype=FP8)
    else:
        eight[f"{layer}.comfy_quant"] = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    save_file(eight, tmp_path / "a.safetensors")
    state = open_model(tmp_path / "a.safetensors", PixelSize(16, 16)).unet.state_dict()
    # The product of both numbers, rounded once to float32; eight bits alone are exact in every wider type.
    expected = weight.float() * torch.tensor(0.002)
    assert torch.equal(state["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"], expected)
    assert torch.equal(state["conv_in.weight"], plain.float())


def test_scales_of_rows_and_other_formats() -> None:
    path = Path("a.safetensors")
    weight, rows = torch.randn(3, 2), torch.tensor([[1.0], [2.0], [4.0]])
    found = plain_numbers(path, {"a.weight": weight, "a.weight_scale": rows})
    assert found.keys() == {"a.weight"} and torch.equal(found["a.weight"], weight * rows)
    with pytest.raises(S2PError, match=r"a\.weight_scale of shape \[2\]"):
        plain_numbers(path, {"a.weight": weight, "a.weight_scale": torch.ones(2)})
    for text, words in ((b'{"format": "nvfp4"}', "quantized to nvfp4"), (b"{}", "not readable")):
        with pytest.raises(S2PError, match=words):
            plain_numbers(path, {"a.weight": weight, "a.comfy_quant": torch.tensor(list(text), dtype=torch.uint8)})
    # A scale of nothing stays, so that it is refused as a key that nothing uses.
    assert plain_numbers(path, {"b.scale_weight": rows}).keys() == {"b.scale_weight"}
