"""Configurations drawn at random from what the classes of diffusers and transformers accept, of small models.

Most draws are of the kinds that people have; each rare setting comes once in some dozens. What diffusers itself cannot build or draw
with is drawn again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

Settings = dict[str, Any]

TOKENS = 16
"""Of the built-in model's tokenizer, which all of these have: its vocabulary is small."""
_WORDS, _BOS, _EOS = 1026, 1024, 1025
_RARE = 0.01


@dataclass(frozen=True)
class Configuration:
    """A model's configuration.

    Attributes:
        seed: that it was drawn with, and of its weights.
        pipeline: class of diffusers.
        unet, scheduler, vae: settings, and their class under ``_class_name``.
        texts: of one text encoder or two.
        pads: the padding token of each tokenizer.
        index: what the pipeline itself is told.
    """

    seed: str
    pipeline: str
    unet: Settings
    vae: Settings
    scheduler: Settings
    texts: tuple[Settings, ...]
    pads: tuple[str, ...]
    index: Settings

    def to_json(self) -> str:
        """In one line, to be told when it fails."""
        return json.dumps(asdict(self))


class _Dice:
    """Choices of one seed."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def one(self, *choices: Any) -> Any:
        """Any of these, all as likely."""
        return self._random.choice(choices)

    def rare(self, usual: Any, *others: Any, share: float = _RARE) -> Any:
        """The usual one; with a probability of ``share`` one of the others."""
        return self._random.choice(others) if self._random.random() < share else usual

    def each(self, count: int, *choices: Any) -> list[Any]:
        """As many choices."""
        return [self._random.choice(choices) for _ in range(count)]


def draw(seed: str) -> Configuration:
    """The configuration of a seed."""
    dice = _Dice(seed)
    xl = dice.one(False, False, True)
    latent = dice.rare(4, 8, 16, share=0.1)
    texts = tuple(_text(dice) for _ in range(1 + xl))
    width = sum(text["hidden_size"] for text in texts)
    unet = _unet(dice, latent, width)
    if xl:
        ids = dice.one(8, 16)
        unet |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": ids,
            "projection_class_embeddings_input_dim": 6 * ids + texts[1]["projection_dim"],
        }
    consistent = unet["time_cond_proj_dim"] is not None and not xl
    pipeline = "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline"
    return Configuration(
        seed=seed,
        pipeline="LatentConsistencyModelPipeline" if consistent else pipeline,
        unet=unet,
        vae=_vae(dice, latent),
        scheduler=_scheduler(dice) if not consistent else {"_class_name": "LCMScheduler", "original_inference_steps": 50},
        texts=texts,
        pads=tuple(dice.one("<|endoftext|>", "!") for _ in texts),
        index={"force_zeros_for_empty_prompt": dice.one(True, False)} if xl else {},
    )


def _text(dice: _Dice) -> Settings:
    width = dice.one(32, 64)
    return {
        "vocab_size": dice.rare(_WORDS, _WORDS + 30),
        "hidden_size": width,
        "intermediate_size": dice.one(2, 4) * width,
        "num_hidden_layers": dice.one(2, 3, 4),
        "num_attention_heads": dice.one(1, 2, 4),
        "max_position_embeddings": dice.rare(TOKENS, 77, share=0.1),
        "hidden_act": dice.rare(dice.one("quick_gelu", "gelu"), "relu", "gelu_new", share=0.02),
        "layer_norm_eps": dice.one(1e-5, 1e-6),
        "projection_dim": dice.one(16, 24, width),
        "bos_token_id": _BOS,
        "eos_token_id": dice.rare(_EOS, 2, share=0.1),
        "pad_token_id": dice.one(1, _EOS),
    }


def _unet(dice: _Dice, latent: int, context: int) -> Settings:
    levels = dice.one(1, 2, 2, 3)
    groups = dice.one(4, 8, 16)
    widths = dice.each(levels, 16, 32, 48, 64)
    layers = dice.each(levels, 1, 2)
    depths = dice.each(levels, 1, 2)
    heads = dice.each(levels, 1, 2, 4, 8)
    spread = dice.one(False, True)
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": dice.rare(8, None, (8, 16), (8, 16), 12, share=0.1),
        "in_channels": latent,
        "out_channels": latent,
        "center_input_sample": dice.rare(False, True),
        "flip_sin_to_cos": dice.rare(True, False, share=0.1),
        "freq_shift": dice.rare(0, 1, share=0.1),
        "down_block_types": [
            dice.rare(
                dice.one("CrossAttnDownBlock2D", "DownBlock2D"), "AttnDownBlock2D", "ResnetDownsampleBlock2D", "KDownBlock2D",
                "SimpleCrossAttnDownBlock2D", share=0.02,
            )
            for _ in range(levels)
        ],
        "mid_block_type": dice.rare("UNetMidBlock2DCrossAttn", None, None, "UNetMidBlock2D", share=0.1),
        "up_block_types": [
            dice.rare(dice.one("CrossAttnUpBlock2D", "UpBlock2D"), "AttnUpBlock2D", "ResnetUpsampleBlock2D", share=0.02)
            for _ in range(levels)
        ],
        "only_cross_attention": dice.rare(False, True, dice.each(levels, True, False), share=0.1),
        "block_out_channels": widths,
        "layers_per_block": layers if spread else layers[0],
        "downsample_padding": dice.rare(1, 0, share=0.1),
        "mid_block_scale_factor": dice.rare(1, 1.4),
        "dropout": dice.rare(0.0, 0.1),
        "act_fn": dice.rare("silu", "swish", "swish", "gelu", "mish", "relu", share=0.08),
        "norm_num_groups": groups,
        "norm_eps": dice.one(1e-5, 1e-6),
        "cross_attention_dim": context,
        "transformer_layers_per_block": dice.one(depths[0], depths),
        "attention_head_dim": dice.one(heads[0], heads),
        "dual_cross_attention": dice.rare(False, True),
        "use_linear_projection": dice.one(False, True),
        "upcast_attention": dice.one(False, True),
        "resnet_time_scale_shift": dice.rare("default", "scale_shift"),
        "resnet_skip_time_act": dice.rare(False, True),
        "resnet_out_scale_factor": dice.rare(1.0, 1.5),
        "time_embedding_type": dice.rare("positional", "fourier"),
        "time_embedding_dim": dice.rare(None, 32, 64, share=0.1),
        "time_embedding_act_fn": dice.rare(None, "silu", "gelu", share=0.05),
        "timestep_post_act": dice.rare(None, "silu", "mish", share=0.05),
        "time_cond_proj_dim": dice.rare(None, 16, share=0.08),
        "conv_in_kernel": dice.rare(3, 1, 5, share=0.08),
        "conv_out_kernel": dice.rare(3, 1, 5, share=0.08),
        "mid_block_only_cross_attention": dice.rare(None, True),
        "attention_type": dice.rare("default", "gated"),
    }  # fmt: skip


def _vae(dice: _Dice, latent: int) -> Settings:
    levels = dice.one(1, 2, 2, 3)
    kind = dice.rare("AutoencoderKL", "AutoencoderTiny")
    if kind == "AutoencoderTiny":
        return {
            "_class_name": kind, "latent_channels": latent, "encoder_block_out_channels": (16,) * levels,
            "decoder_block_out_channels": (16,) * levels, "num_encoder_blocks": (1,) * levels, "num_decoder_blocks": (1,) * levels,
        }  # fmt: skip
    statistics = dice.rare(False, True, share=0.25)
    return {
        "_class_name": kind,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": dice.each(levels, 16, 32),
        "layers_per_block": dice.one(1, 2),
        "act_fn": dice.rare("silu", "gelu", "mish", share=0.1),
        "latent_channels": latent,
        "norm_num_groups": dice.one(4, 8, 16),
        "scaling_factor": dice.one(0.18215, 0.13025, 0.5, 1.0),
        "shift_factor": dice.rare(None, 0.1, share=0.15),
        "latents_mean": dice.each(latent, -1.5, 0.0, 1.25, 2.5) if statistics or dice.rare(False, True) else None,
        "latents_std": dice.each(latent, 0.5, 1.0, 5.25, 8.5) if statistics else None,
        "use_quant_conv": dice.rare(True, False, share=0.1),
        "use_post_quant_conv": dice.rare(True, False, share=0.1),
        "mid_block_add_attention": dice.rare(True, False, share=0.1),
    }


_SCHEDULERS = (
    "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler", "DEISMultistepScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler", "DDPMScheduler",
    "LCMScheduler",
)  # fmt: skip
_OTHERS = (
    "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSinglestepScheduler", "TCDScheduler",
    "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "DPMSolverSDEScheduler",
)  # fmt: skip


def _scheduler(dice: _Dice) -> Settings:
    kind = dice.rare(dice.one(*_SCHEDULERS), *_OTHERS, share=0.05)
    wanted = {
        "num_train_timesteps": dice.rare(1000, 500),
        "beta_start": dice.one(0.00085, 0.0001),
        "beta_end": dice.one(0.012, 0.02),
        "beta_schedule": dice.one("scaled_linear", "scaled_linear", "linear", "squaredcos_cap_v2"),
        "prediction_type": dice.one("epsilon", "epsilon", "v_prediction", "sample"),
        "timestep_spacing": dice.one("leading", "trailing", "linspace"),
        "steps_offset": dice.one(0, 1, 1),
        "set_alpha_to_one": dice.one(True, False),
        "clip_sample": dice.rare(False, True),
        "thresholding": dice.rare(False, True),
        "rescale_betas_zero_snr": dice.rare(False, True, share=0.15),
        "skip_prk_steps": dice.one(True, True, False),
        dice.one("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"): dice.rare(False, True, share=0.25),
        "interpolation_type": dice.one("linear", "log_linear"),
        "final_sigmas_type": dice.one("zero", "zero", "sigma_min"),
        "timestep_type": dice.rare("discrete", "continuous", share=0.1),
        "solver_order": dice.one(1, 2, 3),
        "solver_type": dice.one("midpoint", "heun", "bh1", "bh2"),
        "algorithm_type": dice.one("dpmsolver++", "dpmsolver++", "dpmsolver", "sde-dpmsolver++"),
        "predict_x0": dice.one(True, True, False),
        "use_lu_lambdas": dice.rare(False, True),
        "euler_at_final": dice.rare(False, True),
    }
    # A few are left to the class's own defaults, as older files do.
    kept = {name: value for name, value in wanted.items() if not dice.rare(False, True, share=0.1)}
    return {"_class_name": kind, **kept}


def attempts(seed: int) -> Sequence[str]:
    """Seeds to try one after the other until diffusers accepts one."""
    return [f"{seed}/{attempt}" for attempt in range(50)]
