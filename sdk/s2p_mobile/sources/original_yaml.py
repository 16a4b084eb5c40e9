"""The original configuration of a single file, the ``.yaml`` of the same name beside it: what in it changes a picture.

Two dialects: CompVis's and Stability's ``ldm`` (1.x, 2.x) and Stability's ``sgm`` (XL). Shapes are the weights' own and are not read
here. A setting that is neither known to be of no effect nor understood is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from s2p_mobile.sources.ldm_config import Heads
from s2p_runtime.errors import S2PError

_FILE_BYTES = 1 << 20

_NO_EFFECT = {
    "base_learning_rate", "num_timesteps_cond", "log_every_t", "first_stage_key", "cond_stage_key", "input_key",
    "image_size", "channels", "monitor", "use_ema", "cond_stage_trainable", "unet_trainable", "scheduler_config",
    "optimizer_config", "sampler_config", "loss_fn_config", "lossconfig", "ckpt_path", "ignore_keys", "load_only_unet",
    "loss_type", "l_simple_weight", "original_elbo_weight", "v_posterior", "learn_logvar", "logvar_init", "concat_mode",
    "clip_denoised", "use_positional_encodings", "ucg_training", "reset_ema", "reset_num_ema_updates",
    "keep_num_ema_updates", "make_it_fit", "ema_decay_rate", "ema_decay", "log_keys", "compile_model",
    "en_and_decode_n_samples_a_time", "no_cond_log", "disable_first_stage_autocast", "network_wrapper", "weighting_config",
    "quantize_c_noise", "embed_dim", "double_z", "resolution", "dropout", "use_checkpoint", "legacy", "use_fp16",
    "use_bf16", "spatial_transformer_attn_type", "scale_by_std", "num_idx", "adm_in_channels", "in_channels",
    "out_channels", "out_ch", "ch", "ch_mult", "z_channels", "model_channels", "attention_resolutions", "num_res_blocks",
    "channel_mult", "transformer_depth", "context_dim", "use_linear_in_transformer", "num_classes",
}  # fmt: skip
"""Settings of training, names in data sets, precision, and what the shapes of the weights tell."""
_EXPECTED: dict[str, tuple[Any, ...]] = {
    "conditioning_key": ("crossattn",),
    "use_spatial_transformer": (True,),
    "dims": (2,),
    "conv_resample": (True,),
    "resamp_with_conv": (True,),
    "num_heads_upsample": (-1,),
    "attn_type": ("vanilla", "vanilla-xformers"),
    "num_heads": (-1,),
    "num_head_channels": (-1,),
}
"""Values that mean what is done here anyway, beside null, false and nothing."""
_TEXT_ENCODERS = ("FrozenCLIPEmbedder", "FrozenOpenCLIPEmbedder", "FrozenOpenCLIPEmbedder2")
_LDM_SCHEDULES = {"linear": "scaled_linear", "sqrt_linear": "linear"}
"""What ldm calls linear is linear in the square roots, which diffusers calls scaled."""


@dataclass(frozen=True)
class Original:
    """What a configuration says; None: nothing.

    Attributes:
        prediction: as diffusers calls it.
        betas: the scheduler's settings of its noise levels, under diffusers' names.
        scale_factor: of the latents.
        heads: of the U-Net.
    """

    prediction: str | None = None
    betas: tuple[tuple[str, Any], ...] = ()
    scale_factor: float | None = None
    heads: Heads | None = None


def read_original(path: Path) -> Original:
    """Read a configuration.

    Raises:
        S2PError: none of a Stable Diffusion model, or a setting that changes the picture and is not understood (named).
    """
    try:
        if path.stat().st_size > _FILE_BYTES:
            raise ValueError("too large")
        params = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["params"]
        return _Reader(path).sgm(params) if "denoiser_config" in params else _Reader(path).ldm(params)
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise S2PError(f"{path} is no configuration of a Stable Diffusion model", "get the original one") from error


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path

    def refuse(self, setting: str, value: Any) -> S2PError:
        return S2PError(
            f"{self.path} says {setting} is {str(value)[:80]}, which is not understood here",
            "give the model as a diffusers folder",
        )

    def rest(self, params: Mapping[str, Any], *understood: str) -> None:
        """Refuse what is left."""
        for name, value in params.items():
            if name in understood or name in _NO_EFFECT or value in _EXPECTED.get(name, ()):
                continue
            if value:
                raise self.refuse(name, value)

    def ldm(self, params: Mapping[str, Any]) -> Original:
        self.rest(
            params, "parameterization", "linear_start", "linear_end", "beta_schedule", "timesteps", "scale_factor",
            "unet_config", "first_stage_config", "cond_stage_config",
        )  # fmt: skip
        predictions = {"v": "v_prediction", "eps": "epsilon", None: None}
        if (told := params.get("parameterization")) not in predictions:
            raise self.refuse("parameterization", told)
        if (schedule := params.get("beta_schedule", "linear")) not in _LDM_SCHEDULES:
            raise self.refuse("beta_schedule", schedule)
        self._text_encoder(params.get("cond_stage_config") or {}, "last")
        self._autoencoder(params.get("first_stage_config") or {})
        return Original(
            prediction=predictions[told],
            betas=self._betas(params, params.get("timesteps"))
            + ((("beta_schedule", _LDM_SCHEDULES[schedule]),) if "beta_schedule" in params else ()),
            scale_factor=self._number(params, "scale_factor"),
            heads=self._unet(params.get("unet_config") or {}),
        )

    def sgm(self, params: Mapping[str, Any]) -> Original:
        self.rest(params, "scale_factor", "denoiser_config", "network_config", "first_stage_config", "conditioner_config")
        denoiser = params["denoiser_config"]["params"]
        self.rest(denoiser, "scaling_config", "discretization_config")
        scaling = str((denoiser.get("scaling_config") or {}).get("target", "EpsScaling"))
        predictions = {"EpsScaling": "epsilon", "VScaling": "v_prediction"}
        if (told := scaling.rpartition(".")[2]) not in predictions:
            raise self.refuse("scaling_config", scaling)
        discretization = denoiser.get("discretization_config") or {}
        levels = discretization.get("params") or {}
        if str(discretization.get("target", "LegacyDDPMDiscretization")).rpartition(".")[2] != "LegacyDDPMDiscretization":
            raise self.refuse("discretization_config", discretization.get("target"))
        self.rest(levels, "linear_start", "linear_end", "num_timesteps")
        for embedder in ((params.get("conditioner_config") or {}).get("params") or {}).get("emb_models") or ():
            if "Timestep" not in str(embedder.get("target")):
                self._text_encoder(embedder, 11)
        self._autoencoder(params.get("first_stage_config") or {})
        return Original(
            prediction=predictions[told],
            betas=self._betas(levels, levels.get("num_timesteps", denoiser.get("num_idx"))),
            scale_factor=self._number(params, "scale_factor"),
            heads=self._unet(params.get("network_config") or {}),
        )

    def _betas(self, params: Mapping[str, Any], timesteps: Any) -> tuple[tuple[str, Any], ...]:
        names = (("linear_start", "beta_start"), ("linear_end", "beta_end"))
        told = [(name, value) for key, name in names if (value := self._number(params, key)) is not None]
        return (*told, *([("num_train_timesteps", int(timesteps))] if timesteps is not None else []))

    def _number(self, params: Mapping[str, Any], key: str) -> float | None:
        """YAML 1.1 reads 1e-4 as text."""
        return None if params.get(key) is None else float(params[key])

    def _unet(self, section: Mapping[str, Any]) -> Heads | None:
        if not str(section.get("target", "UNetModel")).endswith("UNetModel"):
            raise self.refuse("the U-Net's class", section.get("target"))
        params = section.get("params") or {}
        self.rest(params, "num_heads", "num_head_channels")
        count, width = (int(params.get(name) or -1) for name in ("num_heads", "num_head_channels"))
        # As in its code: a width goes before a number.
        return Heads(channels=width) if width > 0 else Heads(count=count) if count > 0 else None

    def _autoencoder(self, section: Mapping[str, Any]) -> None:
        if "AutoencoderKL" not in str(section.get("target", "AutoencoderKL")):
            raise self.refuse("the VAE's class", section.get("target"))
        params = section.get("params") or {}
        self.rest(params, "ddconfig")
        self.rest(params.get("ddconfig") or {})

    def _text_encoder(self, section: Mapping[str, Any], clip_layer: str | int) -> None:
        """The layers whose states are used are the published models': others (``clip skip``) would draw another picture.

        Args:
            clip_layer: of CLIP's encoder: its name, or the number of a hidden state.
        """
        kind = str(section.get("target", "FrozenCLIPEmbedder")).rpartition(".")[2]
        if kind not in _TEXT_ENCODERS:
            raise self.refuse("the text encoder's class", section.get("target"))
        params = section.get("params") or {}
        layer = params.get("layer", "")
        told = params.get("layer_idx") if layer == "hidden" else layer
        if told not in ("", "penultimate" if "Open" in kind else clip_layer):
            raise self.refuse("the text encoder's layer", f"{layer} {params.get('layer_idx', '')}".strip())
