"""Single files: every key is used, known to be of no use, or refused by name; and other spellings of what is used."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from s2p_mobile.sources.ldm_config import UntoldShapeError
from s2p_mobile.sources.ldm_text import CLIP, OPEN_CLIP, sd2_blocks, text_layout
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.pixel_size import PixelSize
from s2p_runtime.errors import S2PError

Original = Callable[[str], tuple[Model, dict[str, torch.Tensor]]]
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
SMALL = PixelSize(16, 16)
LEFTOVERS = [
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "log_one_minus_alphas_cumprod", "posterior_mean_coef1",
    "logvar", "lvlb_weights", "denoiser.sigmas", "global_step", "model_ema.decay", "model_ema.diffusion_modelout2bias",
    f"{VAE}loss.discriminator.main.0.weight", f"{VAE}model_ema.decay", f"{TEXT}embeddings.position_ids",
    "cond_stage_model.logit_scale", "safety_checker.vision_model.x",
]  # fmt: skip


def write(path: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> Path:
    save_file(tensors, path, metadata=metadata or None)
    return path


def refusal(path: Path, tensors: dict[str, torch.Tensor]) -> str:
    with pytest.raises(S2PError) as caught:
        open_model(write(path, tensors), SMALL)
    line = str(caught.value)
    assert "\n" not in line and "; " in line and line.count(str(path)) == 1 and "s2p-mobile-" not in line
    return line


def told_to_diffusers(model: Model, folder: Path) -> Path:
    """A copy of a model's folder with the list of components that diffusers wants to see."""
    copy = Path(shutil.copytree(model.folder, folder / "config"))
    index = json.loads((copy / "model_index.json").read_text())
    kinds = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "scheduler": "DDIMScheduler"}
    index |= {name: ["diffusers", kind] for name, kind in kinds.items()}
    for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        if (copy / name).is_dir():
            projected = "WithProjection" if name == "text_encoder_2" else ""
            index[name] = ["transformers", "CLIPTokenizer" if "tokenizer" in name else f"CLIPTextModel{projected}"]
    if model.family.name == "sd1":
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    (copy / "model_index.json").write_text(json.dumps(index))
    return copy


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_weights_are_those_that_diffusers_reads(original: Original, tmp_path: Path, family: str) -> None:
    model, tensors = original(family)
    tensors |= {key: torch.zeros(2) for key in LEFTOVERS}
    path = write(tmp_path / "a.safetensors", tensors)
    pipeline = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    theirs = pipeline.from_single_file(
        path, config=str(told_to_diffusers(model, tmp_path)), local_files_only=True, torch_dtype=torch.float32
    )
    ours = open_model(path, SMALL)
    pairs = [(ours.unet, theirs.unet), (ours.vae, theirs.vae), (ours.conditioner.text_encoder, theirs.text_encoder)]
    # Not SDXL's second text encoder: diffusers tells it from the first by its width, and these small ones have the same.
    for mine, his in pairs:
        state = his.state_dict()
        assert mine.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in mine.state_dict().items()), type(his)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (f"{UNET}time_embed.cond_proj.weight", "guidance embedding of a latent consistency model"),
        (f"{UNET}label_emb.0.0.weight", "embedding of classes"),
        (f"{UNET}input_blocks.1.0.extra.weight", ""),
        (f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k_ip.weight", ""),
        (f"{UNET}out.2.weight.absmax", "quantized by bitsandbytes"),
        (f"{VAE}decoder.extra.weight", ""),
        (f"{VAE}decoder.up.5.block.0.conv1.bias", ""),
        (f"{TEXT}embeddings.style.weight", ""),
        ("ip_adapter.weight", ""),
        ("betas.x", ""),
    ],
)
def test_what_nothing_uses_is_refused_by_name(original: Original, tmp_path: Path, key: str, words: str) -> None:
    _, tensors = original("sd1")
    line = refusal(tmp_path / "a.safetensors", tensors | {key: torch.zeros(2)})
    assert f" has {key}" in line and words in line and line.endswith("; give the model as a diffusers folder")


def test_several_are_counted(original: Original, tmp_path: Path) -> None:
    _, tensors = original("sd1")
    assert "x.0 and 2 more keys" in refusal(tmp_path / "a.safetensors", tensors | {f"x.{i}": torch.zeros(2) for i in range(3)})


def test_what_is_missing_or_does_not_fit_is_named(original: Original, tmp_path: Path) -> None:
    _, tensors = original("sd1")
    path = tmp_path / "a.safetensors"
    lacking = {key: value for key, value in tensors.items() if key != f"{UNET}out.2.bias"}
    assert "is incomplete (its unet lacks conv_out.bias" in refusal(path, lacking)
    key = f"{UNET}middle_block.1.transformer_blocks.0.ff.net.2.bias"
    assert f"has {key} as [3], where [64] is needed" in refusal(path, tensors | {key: torch.zeros(3)})
    assert f"has {key} as integers" in refusal(path, tensors | {key: torch.zeros(64, dtype=torch.int8)})


@pytest.mark.parametrize("numbers", [[0.25, 0.5], [], [0.0], [-1.0], [float("nan")]])
def test_a_scale_of_the_latents_is_one_positive_number(original: Original, tmp_path: Path, numbers: list[float]) -> None:
    _, tensors = original("sd1")
    line = refusal(tmp_path / "a.safetensors", tensors | {"scale_factor": torch.tensor(numbers)})
    assert f"its scale_factor is {numbers}, not one positive number" in line


def test_later_messages_name_the_file_too(original: Original, tmp_path: Path) -> None:
    _, tensors = original("sd1")
    path = write(tmp_path / "a.safetensors", tensors | {f"{UNET}out.2.bias": torch.full((4,), torch.nan)})
    with pytest.raises(S2PError, match=rf"^the unet of {path} has NaN in conv_out\.bias; "):
        _ = open_model(path, SMALL).unet
    wide = tensors[f"{UNET}input_blocks.0.0.weight"].repeat(1, 3, 1, 1)[:, :9].contiguous()
    assert f"{path} has an inpainting U-Net" in refusal(path, tensors | {f"{UNET}input_blocks.0.0.weight": wide})


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        (VAE, "has no VAE; give a file with the whole model"),
        (f"{VAE}decoder.", "has no VAE decoder; "),
        ("cond_stage_model.", "has no text encoder; "),
        ((VAE, "cond_stage_model."), "has no VAE and no text encoder; "),
    ],
)
def test_a_part_that_is_not_there_is_named(original: Original, tmp_path: Path, prefix: str | tuple[str], words: str) -> None:
    _, tensors = original("sd1")
    assert words in refusal(tmp_path / "a.safetensors", {k: v for k, v in tensors.items() if not k.startswith(prefix)})


@pytest.mark.parametrize("gone", [("encoder.", "quant_conv."), ("encoder.down.0.",)])
def test_the_vae_encoder_is_not_needed(original: Original, tmp_path: Path, gone: tuple[str, ...]) -> None:
    model, tensors = original("sd1")
    beginnings = tuple(f"{VAE}{part}" for part in gone)
    left = {key: value for key, value in tensors.items() if not key.startswith(beginnings)}
    opened = open_model(write(tmp_path / "a.safetensors", left), SMALL)
    assert opened.vae.config.block_out_channels == model.vae.config.block_out_channels
    latents = torch.randn(1, 4, 4, 4).numpy()
    assert (opened.decode(latents) == model.decode(latents)).all()


def test_other_spellings_of_the_same_weights(original: Original, tmp_path: Path) -> None:
    model, tensors = original("sd1")
    names = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    spelled = {
        re.sub(r"mid\.attn_1\.(q|k|v|proj_out)\.", lambda m: f"mid.attn_1.{names[m[1]]}.", key).replace(TEXT, TEXT[:-11]): value
        for key, value in tensors.items()
    }
    assert len(spelled.keys() - tensors.keys()) > 50
    opened = open_model(write(tmp_path / "a.safetensors", spelled), SMALL)
    for mine, his in ((opened.vae, model.vae), (opened.conditioner.text_encoder, model.conditioner.text_encoder)):
        assert all(torch.equal(value, his.state_dict()[name]) for name, value in mine.state_dict().items())
    key = f"{VAE}decoder.mid.attn_1.to_q.bias"
    both = tensors | {key: torch.zeros_like(spelled[key])}
    assert "under another name too" in refusal(tmp_path / "b.safetensors", both)


@pytest.mark.parametrize(
    ("blocks", "beside", "used"),
    [
        (24, [], 23),
        (23, [], 23),
        (24, ["logit_scale"], 23),
        (4, ["text_projection"], 3),
        (4, ["logit_scale"], 3),
        (4, [], None),
    ],
)
def test_the_unused_block_of_sd2_is_left_out_once(blocks: int, beside: list[str], used: int | None) -> None:
    prefix = "cond_stage_model.model."
    keys = [f"{prefix}transformer.resblocks.{index}.ln_1.bias" for index in range(blocks)] + [prefix + name for name in beside]
    tensors = {key: torch.zeros(1) for key in keys}
    if used is not None:
        assert sd2_blocks(tensors, OPEN_CLIP) == used
        return
    with pytest.raises(UntoldShapeError, match="nothing says whether the last one"):
        sd2_blocks(tensors, OPEN_CLIP)


def test_sd2_named_as_transformers_does_is_known_by_its_width() -> None:
    for width, v2 in ((768, False), (1024, True)):
        tensors = {f"{TEXT}embeddings.token_embedding.weight": torch.empty(9, width, device="meta")}
        assert text_layout(tensors) == (CLIP, v2)


def test_sd2_of_another_width_is_known_by_its_unet(original: Original, tmp_path: Path) -> None:
    model, tensors = original("sd2")
    settings = model.conditioner.text_encoder.config.to_dict() | {"num_hidden_layers": 23, "num_attention_heads": 1}
    theirs = CLIPTextModel(CLIPTextConfig(**settings)).eval()
    assert theirs.config.hidden_size not in (768, 1024) and theirs.config.hidden_act == "gelu"
    tensors = {key: value for key, value in tensors.items() if not key.startswith("cond_stage_model.")}
    tensors |= {TEXT + key.removeprefix("text_model."): value.clone() for key, value in theirs.state_dict().items()}
    said = {"modelspec.prediction_type": "epsilon"}
    opened = open_model(write(tmp_path / "a.safetensors", tensors, **said), SMALL)
    assert opened.family.name == "sd2" and opened.unet.config.attention_head_dim == model.unet.config.attention_head_dim
    # SD2's activation, too, is told by nothing else.
    ids = torch.arange(16)[None]
    assert torch.equal(opened.conditioner.text_encoder(ids)[0], theirs(ids)[0])
    path = write(tmp_path / "b.safetensors", tensors, **{"modelspec.architecture": "stable-diffusion-v1"})
    with pytest.raises(
        S2PError, match=r"header says Stable Diffusion 1, and its U-Net is built as Stable Diffusion 2's.*; give"
    ):
        open_model(path, SMALL)
