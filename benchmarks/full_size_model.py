"""Random models with the true architectures of SD v1-4, v2-1 and XL 1.0: diffusers folders and checkpoints."""

from __future__ import annotations

import json
import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import QuantizedLayer
from s2p_converters.targets.manifest import folder_bytes
from s2p_mobile.demo import DEMO_MODEL
from s2p_mobile.sources.pipeline_index import complete_index
from s2p_runtime.quiet import quiet_import

CONFIGS: dict[str, dict[str, Any]] = {
    "sd1": {
        "sample_size": 64, "block_out_channels": [320, 640, 1280, 1280], "attention_head_dim": 8, "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    },
    "sd2": {
        "sample_size": 96, "block_out_channels": [320, 640, 1280, 1280], "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024, "use_linear_projection": True,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    },
    "sdxl": {
        "sample_size": 128, "block_out_channels": [320, 640, 1280], "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048, "use_linear_projection": True, "transformer_layers_per_block": [1, 2, 10],
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    },
}  # fmt: skip
"""U-Nets of CompVis/stable-diffusion-v1-4, stabilityai/stable-diffusion-2-1 and stable-diffusion-xl-base-1.0."""

TEXT_WIDTHS = {"sd1": (768,), "sd2": (1024,), "sdxl": (768, 1280)}
TEXT_LAYERS = {768: 12, 1024: 23, 1280: 32}
"""Of a text encoder of a width."""
Figures = dict[str, Any]


def unet_config(model: str, scale: float) -> dict[str, Any]:
    """The U-Net's configuration with every width times ``scale``; widths must stay multiples of 64."""
    config = {
        "_class_name": "UNet2DConditionModel", "act_fn": "silu", "in_channels": 4, "out_channels": 4, "layers_per_block": 2,
        "norm_num_groups": 32, "norm_eps": 1e-5, **CONFIGS[model],
    }  # fmt: skip
    widths = [round(width * scale) for width in config["block_out_channels"]]
    if any(width % 64 for width in widths):
        raise SystemExit(f"--scale {scale} gives widths {widths}, which are no multiples of 64; try 0.4, 0.6, 0.8 or 1")
    config["block_out_channels"] = widths
    if isinstance(config["attention_head_dim"], list):
        config["attention_head_dim"] = [width // 64 for width in widths]
    return config


def write_random(path: Path, shapes: dict[str, tuple[int, ...]], seed: int) -> int:
    """Write random fp16 tensors of these shapes, one at a time; gives their number of elements.

    Weights are normal with the variance of the usual initialization, norms are ones and zeros.
    """
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            if "norm" in name and len(shape) == 1:
                values = np.full(shape, float(name.endswith("weight")), np.float32)
            else:
                fan = math.prod(shape[1:]) if len(shape) > 1 else 2500
                values = rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(fan))
            file.write(values.astype(np.float16).tobytes())
    return offset // 2


def make(folder: Path, model: str, scale: float, whole: bool = False) -> Figures:
    """Write the diffusers folder.

    Args:
        whole: with VAE and text encoders of the true size too; their tokenizer is the demo model's all the same.
    """
    with quiet_import():
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
    config = unet_config(model, scale)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    shapes = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    parameters = write_random(folder / "unet" / "diffusion_pytorch_model.safetensors", shapes, 0)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512) if whole else (32,) * 4, layers_per_block=2 if whole else 1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4, sample_size=config["sample_size"] * 8,
    )  # fmt: skip
    vae.save_pretrained(folder / "vae")
    vocabulary = json.loads((DEMO_MODEL / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    for index, width in enumerate(TEXT_WIDTHS[model]):
        suffix, kind = ("", CLIPTextModel) if index == 0 else (f"_{index + 1}", CLIPTextModelWithProjection)
        text = CLIPTextConfig(
            vocab_size=49408 if whole else len(vocabulary), hidden_size=width, intermediate_size=4 * width if whole else width,
            num_hidden_layers=TEXT_LAYERS[width] if whole else 2,
            num_attention_heads=width // 64, max_position_embeddings=77, projection_dim=width,
            hidden_act="gelu" if model == "sd2" else "quick_gelu", bos_token_id=len(vocabulary) - 2,
            eos_token_id=len(vocabulary) - 1, pad_token_id=len(vocabulary) - 1,
        )  # fmt: skip
        kind(text).save_pretrained(folder / f"text_encoder{suffix}")
        shutil.copytree(DEMO_MODEL / "tokenizer", folder / f"tokenizer{suffix}", copy_function=shutil.copyfile)
    (folder / "scheduler").mkdir()
    scheduler = {
        "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000, "set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False,
        "prediction_type": "epsilon",
    }  # fmt: skip
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    name = "StableDiffusionXLPipeline" if model == "sdxl" else "StableDiffusionPipeline"
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
    complete_index(folder)
    return {"parameters": parameters}


def _random_integers(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int8]:
    """Of four bits."""
    return rng.integers(-8, 8, shape, np.int8)


def random_integers(model: Path, out: Path) -> Figures:
    """A checkpoint like that of :func:`quantize` with random integers, for networks whose float32 form does not fit the machine."""
    from s2p_converters.core.checkpoint import write_checkpoint_tensors
    from s2p_converters.core.checkpoint_manifest import CheckpointManifest, Source, layer_entry
    from s2p_converters.core.graph import Operators, StepTables, StepUNet, layer_specs, resnet_names
    from s2p_converters.core.graph.time_network import time_network_shapes
    from s2p_converters.core.plan import plan_for
    from s2p_mobile.quantize.bits import quantized_specs
    from s2p_mobile.quantize.recipes import load_recipe
    from s2p_mobile.sources.model import Model
    from s2p_runtime.bundle import file_entries
    from s2p_runtime.contract import write_contract

    source, recipe = Model(model), load_recipe("w4a8")
    plan = plan_for(model / "scheduler", None, 1)
    rng = np.random.default_rng(0)
    specs = layer_specs(source.structure)
    layers = {
        spec.name: QuantizedLayer(
            spec, 4, 8, partial(_random_integers, rng, spec.weight_shape),
            np.full(spec.out_channels, 0.22 * math.sqrt(spec.out_channels / spec.weights), np.float16),
            np.zeros(spec.out_channels, np.float32) if spec.bias else None, np.full(1, 2.0**-5, np.float32),
        )
        for spec in quantized_specs(specs, recipe)
    }  # fmt: skip
    with torch.device("meta"):
        names = StepUNet(source.structure, StepTables({"none": torch.zeros(1, 1)}), Operators()).state_dict()
    floats = {
        name: np.full(value.shape, float(name.endswith("weight")), np.float32) / math.sqrt(max(1, math.prod(value.shape[1:])))
        for name, value in names.items()
        if name.rsplit(".", 1)[0] not in layers and not name.startswith("tables.")
    }  # fmt: skip
    tables = {
        f"{name}.time": rng.standard_normal((1, width), np.float32) for name, width in resnet_names(source.structure).items()
    }
    network = None
    if not source.conditioner.shares_time_table:
        shapes = time_network_shapes(source.structure, source.unet_config, 1)
        network = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    out.mkdir()
    write_checkpoint_tensors(out, layers, floats, tables, None, network)
    shutil.copytree(model / "vae", out / "vae")
    write_contract(
        out / "s2p.json",
        CheckpointManifest(
            producer="benchmark", family=source.family.name,
            source=Source(name=source.name, unet_sha256="0" * 64, text_sha256=(), embedded_guidance=None, unet_fp32_bytes=0),
            method="rtn",
            recipe=recipe.model_dump(mode="json"), seed=0, plan=plan, guidance=source.guidance, latents=source.latents,
            tokenizer=source.conditioner.tokenizer_spec, unet_config=dict(source.unet_config),
            layers=tuple(layer_entry(spec, layers.get(spec.name)) for spec in specs), golden=(), files=file_entries(out, "s2p.json"),
            conditioning=source.conditioner.settings, split_shortcuts=False, softmax_bits=None,
        ),
    )  # fmt: skip
    return {"bytes": folder_bytes(out)}
