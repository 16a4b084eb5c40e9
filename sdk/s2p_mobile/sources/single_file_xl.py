"""Single-file checkpoints of SDXL (original key names) as a diffusers folder."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from s2p_mobile.sources.ldm_config import (
    CLIP_PREFIX,
    OPEN_CLIP_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    Tensors,
    UntoldShapeError,
    component_part,
    text_config,
    unet_config,
    vae_config,
    write_component,
    write_tokenizer,
)
from s2p_runtime.quiet import quiet_import

FIRST_PREFIX = "conditioner.embedders.0.transformer."
SECOND_PREFIX = "conditioner.embedders.1.model."
_TIME_IDS = 6


def is_sdxl(keys: list[str]) -> bool:
    """Whether a file with these keys has SDXL's two text encoders; its refiner has the second alone, as the first."""
    return all(any(key.startswith(prefix) for key in keys) for prefix in (FIRST_PREFIX, SECOND_PREFIX))


def xl_configs(tensors: Tensors, prediction: str) -> dict[str, dict[str, Any]]:
    """diffusers configurations by component: the published model's, with the shapes that the file has.

    Heads have 64 channels each. The width of a time id's sinusoid is what the added embedding takes beside the pooled text.

    Raises:
        UntoldShapeError: a width that does not divide into heads, groups or time ids.
    """
    pooled = int(tensors[f"{SECOND_PREFIX}text_projection"].shape[1])
    added = int(tensors[f"{UNET_PREFIX}label_emb.0.0.weight"].shape[1])
    if added <= pooled or (added - pooled) % _TIME_IDS:
        raise UntoldShapeError(
            f"its U-Net takes {added} added numbers, no pooled text of {pooled} and {_TIME_IDS} time ids of one width"
        )
    unet = unet_config(tensors, v2=True, sample_size=128) | {
        "upcast_attention": False,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (added - pooled) // _TIME_IDS,
        "projection_class_embeddings_input_dim": added,
    }
    second = text_config(_renamed(tensors, SECOND_PREFIX, OPEN_CLIP_PREFIX), v2=True)
    second |= {
        "architectures": ["CLIPTextModelWithProjection"],
        # Nothing is left out here: the last block makes the pooled text.
        "num_hidden_layers": second["num_hidden_layers"] + 1,
        "projection_dim": pooled,
    }
    scheduler = {
        "_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000, "steps_offset": 1, "timestep_spacing": "leading", "interpolation_type": "linear",
        "use_karras_sigmas": False, "trained_betas": None, "prediction_type": prediction,
    }  # fmt: skip
    return {
        "unet": unet,
        "vae": vae_config(tensors) | {"scaling_factor": 0.13025},
        "text_encoder": text_config(_renamed(tensors, FIRST_PREFIX, CLIP_PREFIX), v2=False),
        "text_encoder_2": second,
        "scheduler": scheduler,
    }


def write_xl(tensors: Tensors, folder: Path, prediction: str) -> None:
    """Write every component, in the file's precision.

    Raises:
        KeyError, IndexError, RuntimeError: a tensor is missing or has another shape.
        UntoldShapeError: as :func:`xl_configs`.
    """
    with quiet_import():
        from diffusers.loaders.single_file_utils import (
            convert_ldm_clip_checkpoint,
            convert_ldm_unet_checkpoint,
            convert_ldm_vae_checkpoint,
            convert_open_clip_checkpoint,
        )

    configs = xl_configs(tensors, prediction)
    width = SimpleNamespace(config=SimpleNamespace(hidden_size=configs["text_encoder_2"]["hidden_size"]))
    second = component_part(tensors, SECOND_PREFIX)
    parts = {
        "unet": convert_ldm_unet_checkpoint(component_part(tensors, UNET_PREFIX), configs["unet"]),
        "vae": convert_ldm_vae_checkpoint(component_part(tensors, VAE_PREFIX), configs["vae"]),
        "text_encoder": convert_ldm_clip_checkpoint(component_part(tensors, FIRST_PREFIX)),
        "text_encoder_2": convert_open_clip_checkpoint(width, second, prefix=SECOND_PREFIX),
    }
    for name, converted in parts.items():
        stem = "model" if name.startswith("text") else "diffusion_pytorch_model"
        write_component(folder / name, configs[name], converted, stem)
    write_tokenizer(folder / "tokenizer", pads_with_end=True)
    write_tokenizer(folder / "tokenizer_2", pads_with_end=False)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(configs["scheduler"]))
    index = {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
    (folder / "model_index.json").write_text(json.dumps(index))


def _renamed(tensors: Tensors, prefix: str, new: str) -> Tensors:
    return {new + key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
