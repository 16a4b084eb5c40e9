"""Single-file checkpoints of Stable Diffusion 1.x, 2.x and XL (original key names) as a diffusers folder.

Keys are converted by diffusers' own ``single_file_utils``: the mapping is long, and users compare with what diffusers loads.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from s2p_converters.core.resources import require_disk
from s2p_mobile.sources.header_kind import told_kind
from s2p_mobile.sources.key_account import Part, converted_parts
from s2p_mobile.sources.ldm_config import (
    SD1_HEADS,
    SD2_HEADS,
    UNET_PREFIX,
    VAE_PREFIX,
    Tensors,
    UntoldShapeError,
    component_part,
    unet_config,
    vae_config,
    write_component,
    write_tokenizer,
)
from s2p_mobile.sources.ldm_text import TextLayout, sd2_blocks, text_config, text_layout
from s2p_mobile.sources.markers import Told, read_markers
from s2p_mobile.sources.pixel_size import vae_factor
from s2p_mobile.sources.scaled_fp8 import plain_numbers
from s2p_mobile.sources.single_file_xl import is_sdxl, write_tokenizers, xl_text_parts, xl_unet_additions
from s2p_mobile.sources.weight_file import read_weight_file
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import

_OTHER_KINDS = (
    (r"(^|\.)joint_blocks\.", "Stable Diffusion 3 checkpoint"),
    (r"(^|\.)double_blocks\.", "Flux checkpoint"),
    (r"control_model\.|controlnet_", "ControlNet"),
    (r"lora_|\.lora", "LoRA file, which goes with `lora` beside a model"),
)
_ALONE = (
    (r"(encoder\.down|decoder)\.", "a VAE alone"),
    (r"(input_blocks|output_blocks|time_embed)\.", "a U-Net alone"),
    (r"(unet|vae|text_encoder(_2)?)\.", "a file of components of a diffusers folder, which diffusers does not read either"),
    (r"(down_blocks|up_blocks|time_embedding|text_model)\.", "one component of a diffusers folder"),
)
_HINT = "give a single-file checkpoint of Stable Diffusion 1.x, 2.x or XL"
_WHOLE = "give a file with the whole model, or a diffusers folder"
_SCALING = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}
"""Of the latents, of the published models."""
_PIPELINES = {"sd1": "StableDiffusionPipeline", "sd2": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}

_SPELLINGS = (
    # Text encoders without their outer name, as transformers has them since 5.6.
    (
        r"(cond_stage_model|conditioner\.embedders\.0)\.transformer\.(embeddings|encoder|final_layer_norm)\.",
        r"\1.transformer.text_model.\2.",
    ),
    # The VAE's attention under newer diffusers names, which its own script to write single files once let through.
    (rf"({VAE_PREFIX}\w+\.mid\.attn_1\.)to_([qkv])\.", r"\1\2."),
    (rf"({VAE_PREFIX}\w+\.mid\.attn_1\.)to_out\.0\.", r"\1proj_out."),
    (rf"({VAE_PREFIX}\w+\.mid\.attn_1\.)group_norm\.", r"\1norm."),
)
"""Other names for the same weights -> those that diffusers' conversion knows."""


def unpack(path: Path, folder: Path, allow_pickle: bool = False) -> None:
    """Write a checkpoint as a diffusers folder (U-Net, text encoders, VAE, tokenizers, scheduler), in the file's precision.

    Args:
        path: ``.safetensors``, GGUF, or a pickle; weights of an exponential average (``model_ema``) are not used, as in diffusers.
        folder: exists and is empty.
        allow_pickle: read a pickle's weights.

    Raises:
        S2PError: damaged, a pickle that is not allowed, no Stable Diffusion 1.x, 2.x or XL, widths of other heads than theirs, a
            key that nothing uses, a mark that is not understood, a 2.x file that does not say what it predicts, or too little disk.
    """
    file = read_weight_file(path, allow_pickle)
    keys = {_spelled(key): key for key in file.tensors}
    if twice := sorted(set(file.tensors) - set(keys.values())):
        raise S2PError(f"{path} has {twice[0]} under another name too", "get the file again, or give a diffusers folder")
    xl = is_sdxl(keys)
    _refuse_other(path, keys, xl)
    try:
        tensors = {_spelled(key): value for key, value in plain_numbers(path, file.tensors).items()}
        text, v2 = (None, False) if xl else text_layout(tensors, told_kind(file.metadata))
        family = "sdxl" if xl else "sd2" if v2 else "sd1"
        told = read_markers(path, file.metadata, keys, family)
        parts = [_unet(tensors, told, family), _vae(tensors, told, family)]
        unused: list[str] = []
        if text is None:
            parts += xl_text_parts(tensors)
        else:
            blocks = sd2_blocks(tensors, text) if v2 else text.blocks(tensors)
            unused = [f"{text.blocks_prefix}{index}." for index in range(blocks, text.blocks(tensors))]
            parts.append(_text(tensors, text, "gelu" if v2 else "quick_gelu", blocks, unused))
        weights = converted_parts(path, parts, {name: keys[name] for name in tensors}, unused)
    except UntoldShapeError as error:
        raise S2PError(f"{path} cannot be used as a single file ({error})", "give the model as a diffusers folder") from error
    except (KeyError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise S2PError(f"{path} is incomplete ({reason})", "get the file again, or give a diffusers folder") from error
    # Quantized files grow when they are unpacked.
    size = sum(value.nbytes for part in weights.values() for value in part.values())
    require_disk(folder, size, f"unpacking {path.name}", "set TMPDIR to a folder on a larger disk")
    for part in parts:
        write_component(folder / part.folder, dict(part.config), weights[part.folder])
    if xl:
        write_tokenizers(folder)
    else:
        write_tokenizer(folder / "tokenizer", pads_with_end=not v2)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(told.scheduler_config(family)))
    index: dict[str, Any] = {"_class_name": _PIPELINES[family], **({"force_zeros_for_empty_prompt": True} if xl else {})}
    if told.few_steps:
        index["_name_or_path"] = told.few_steps
    (folder / "model_index.json").write_text(json.dumps(index))


def _spelled(key: str) -> str:
    for pattern, name in _SPELLINGS:
        key = re.sub(f"^{pattern}", name, key)
    return key


def _refuse_other(path: Path, keys: Iterable[str], xl: bool) -> None:
    keys = list(keys)
    for mark, words in _OTHER_KINDS:
        if any(re.search(mark, key) for key in keys):
            raise S2PError(f"{path} is a {words}", f"{_HINT}")
    if any(key.startswith("cond_stage_model.1.") for key in keys):
        raise S2PError(
            f"{path} is SDXL under the names of stable-diffusion.cpp (cond_stage_model.1.), which do not say which way round the "
            "second text encoder's projection lies",
            "give the .safetensors file that it was made from, or a diffusers folder",
        )
    if any(key.startswith("conditioner.embedders.") for key in keys) and not xl:
        raise S2PError(f"{path} has one of SDXL's two text encoders, as its refiner has", f"{_HINT}")
    parts = {UNET_PREFIX: "U-Net", VAE_PREFIX: "VAE", "conditioner." if xl else "cond_stage_model.": "text encoder"}
    missing = [name for prefix, name in parts.items() if not any(key.startswith(prefix) for key in keys)]
    if len(missing) == len(parts):
        found = (words for pattern, words in _ALONE if any(re.match(pattern, key) for key in keys))
        raise S2PError(f"{path} is {next(found, 'no checkpoint known here')}", f"{_HINT}")
    if not any(key.startswith(f"{VAE_PREFIX}decoder.") for key in keys) and "VAE" not in missing:
        missing.append("VAE decoder")
    if missing:
        raise S2PError(f"{path} has no {' and no '.join(missing)}", _WHOLE)


def _unet(tensors: Tensors, told: Told, family: str) -> Part:
    with quiet_import():
        from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    heads = told.original.heads or (SD1_HEADS if family == "sd1" else SD2_HEADS)
    config = unet_config(tensors, heads, 64)
    config["sample_size"] = told.sample_size(family, vae_factor(vae_config(tensors, 1.0)), len(config["block_out_channels"]))
    if family == "sdxl":
        config |= xl_unet_additions(tensors)
    own = component_part(tensors, UNET_PREFIX)
    return Part("unet", config, own, lambda given: dict(convert_ldm_unet_checkpoint(given, config)))


def _vae(tensors: Tensors, told: Told, family: str) -> Part:
    with quiet_import():
        from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    config = vae_config(tensors, _measured(tensors) or told.original.scale_factor or _SCALING[family])
    own = component_part(tensors, VAE_PREFIX)
    return Part("vae", config, own, lambda given: dict(convert_ldm_vae_checkpoint(given, config)), ("encoder.", "quant_conv."))


def _measured(tensors: Tensors) -> float | None:
    """The latents' scale where training measured it: then it stands in the file."""
    value = tensors.get("scale_factor")
    if value is None:
        return None
    numbers = value.float().flatten().tolist()
    if len(numbers) != 1 or not 0 < numbers[0] < math.inf:
        raise UntoldShapeError(f"its scale_factor is {str(numbers)[:40]}, not one positive number")
    return float(numbers[0])


def _text(tensors: Tensors, layout: TextLayout, act: str, blocks: int, unused: list[str]) -> Part:
    with quiet_import():
        from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint

    config = text_config(tensors, layout, act, blocks)
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
    own = {key: value for key, value in component_part(tensors, layout.prefix).items() if not key.startswith(tuple(unused))}

    def convert(given: Tensors) -> Tensors:
        if layout.open_clip:
            return dict(convert_open_clip_checkpoint(model, given, prefix=layout.prefix))
        return dict(convert_ldm_clip_checkpoint(given))

    return Part("text_encoder", config, own, convert)
