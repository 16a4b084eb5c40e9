"""Single-file ``.safetensors`` checkpoints of Stable Diffusion 1.x, 2.x and XL (original key names) as a diffusers folder.

Keys are converted by diffusers' own ``single_file_utils``: the mapping is long, and users compare with what diffusers loads.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from s2p_mobile.sources.ldm_config import (
    CLIP_PREFIX,
    OPEN_CLIP_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    UntoldShapeError,
    component_part,
    open_clip_blocks,
    scheduler_config,
    text_config,
    unet_config,
    vae_config,
    write_component,
    write_tokenizer,
)
from s2p_mobile.sources.single_file_xl import is_sdxl, write_xl
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import

_OTHER_KINDS = (
    ("joint_blocks.", "Stable Diffusion 3 checkpoint"),
    ("double_blocks.", "Flux checkpoint"),
    ("control_model.", "ControlNet"),
    ("controlnet_", "ControlNet"),
    ("lora_", "LoRA file, which goes with `lora` beside a model"),
    (".lora", "LoRA file, which goes with `lora` beside a model"),
)


_HINT = "give a single-file checkpoint of Stable Diffusion 1.x, 2.x or XL"


def unpack(path: Path, folder: Path) -> None:
    """Write a checkpoint as a diffusers folder (U-Net, text encoder, VAE, tokenizer, scheduler), in the file's precision.

    Args:
        path: ``.safetensors``; weights of an exponential average (``model_ema``) are not used, as in diffusers.
        folder: exists and is empty.

    Raises:
        S2PError: damaged, no Stable Diffusion 1.x, 2.x or XL, widths of other heads than theirs, or a 2.x file that does not say
            what it predicts.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            keys = list(file.keys())
        xl = is_sdxl(keys)
        _refuse_other(path, keys, xl)
        v2 = any(key.startswith(OPEN_CLIP_PREFIX) for key in keys)
        prediction = _prediction_type(path, metadata, keys, required=v2) if v2 or xl else "epsilon"
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise S2PError(f"{path} cannot be read as safetensors ({error})", "get the file again") from error
    try:
        if xl:
            write_xl(tensors, folder, prediction)
        else:
            _write(tensors, folder, v2, prediction)
    except UntoldShapeError as error:
        raise S2PError(f"{path} cannot be used as a single file ({error})", "give the model as a diffusers folder") from error
    except (KeyError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise S2PError(f"{path} is incomplete ({reason})", "get the file again, or give a diffusers folder") from error


def _refuse_other(path: Path, keys: list[str], xl: bool) -> None:
    for mark, words in _OTHER_KINDS:
        if any(mark in key for key in keys):
            raise S2PError(f"{path} is a {words}", f"{_HINT}")
    if any(key.startswith("conditioner.embedders.") for key in keys) and not xl:
        raise S2PError(f"{path} has one of SDXL's two text encoders, as its refiner has", f"{_HINT}")
    parts = {UNET_PREFIX: "U-Net", VAE_PREFIX: "VAE", "conditioner." if xl else "cond_stage_model.": "text encoder"}
    missing = [name for prefix, name in parts.items() if not any(key.startswith(prefix) for key in keys)]
    if len(missing) == len(parts):
        what = (
            "a VAE alone" if any(key.startswith(("encoder.down", "decoder.")) for key in keys) else "no checkpoint known here"
        )
        raise S2PError(f"{path} is {what}", f"{_HINT}")
    if missing:
        raise S2PError(f"{path} has no {missing[0]}", "give a file with the whole model")


def _prediction_type(path: Path, metadata: dict[str, str], keys: list[str], required: bool) -> str:
    """2.x exists in both kinds and shapes do not tell; the file's ModelSpec metadata, a marker or the original YAML do.

    Args:
        required: refuse a file that does not say it; else it predicts noise, as SDXL does.
    """
    told = metadata.get("modelspec.prediction_type", "").lower()
    if told in ("v", "v_prediction", "v-prediction") or "v_pred" in keys:
        return "v_prediction"
    if told in ("epsilon", "eps"):
        return "epsilon"
    beside = path.with_suffix(".yaml")
    if not beside.is_file() and not required:
        return "epsilon"
    if not beside.is_file():
        raise S2PError(
            f"{path} is a Stable Diffusion 2.x checkpoint that does not say whether it predicts noise or v",
            f"put its original configuration beside it as {beside.name}",
        )
    try:
        parameters = yaml.safe_load(beside.read_text(encoding="utf-8"))["model"]["params"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise S2PError(f"{beside} is no configuration of a Stable Diffusion model", "get the original one") from error
    return "v_prediction" if parameters.get("parameterization") == "v" else "epsilon"


def _write(tensors: dict[str, torch.Tensor], folder: Path, v2: bool, prediction: str) -> None:
    with quiet_import():
        from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    config = unet_config(tensors, v2, sample_size=96 if prediction == "v_prediction" else 64)
    unet = convert_ldm_unet_checkpoint(component_part(tensors, UNET_PREFIX), config)
    write_component(folder / "unet", config, unet, "diffusion_pytorch_model")
    config = vae_config(tensors)
    vae = convert_ldm_vae_checkpoint(component_part(tensors, VAE_PREFIX), config)
    write_component(folder / "vae", config, vae, "diffusion_pytorch_model")
    config = text_config(tensors, v2)
    write_component(folder / "text_encoder", config, _text_encoder(tensors, config, v2), "model")
    write_tokenizer(folder / "tokenizer", pads_with_end=not v2)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler_config(prediction, v2)))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))


def _text_encoder(tensors: dict[str, torch.Tensor], config: dict[str, Any], v2: bool) -> dict[str, torch.Tensor]:
    with quiet_import():
        from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint

    if not v2:
        return convert_ldm_clip_checkpoint(component_part(tensors, CLIP_PREFIX))
    last = f"{OPEN_CLIP_PREFIX}transformer.resblocks.{open_clip_blocks(tensors) - 1}."
    kept = {key: value for key, value in component_part(tensors, OPEN_CLIP_PREFIX).items() if not key.startswith(last)}
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
    converted = convert_open_clip_checkpoint(model, kept, prefix=OPEN_CLIP_PREFIX)
    return {key: value for key, value in converted.items() if not key.startswith("text_projection")}
