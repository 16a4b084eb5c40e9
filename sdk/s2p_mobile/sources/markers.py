"""What a single file says of itself beside its weights: keys that are marks, its metadata, and the ``.yaml`` beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2p_mobile.sources.few_steps import named_kind
from s2p_mobile.sources.original_yaml import Original, read_original
from s2p_runtime.errors import S2PError

_PREDICTIONS = {
    "v": "v_prediction", "v_prediction": "v_prediction", "v-prediction": "v_prediction", "v_pred": "v_prediction",
    "epsilon": "epsilon", "eps": "epsilon",
}  # fmt: skip
_SCHEDULER = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "steps_offset": 1, "trained_betas": None,
}  # fmt: skip
_OWN_SCHEDULERS: dict[str, dict[str, Any]] = {
    "sd1": {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False, "clip_sample": False},
    "sd2": {"_class_name": "DDIMScheduler", "set_alpha_to_one": False, "clip_sample": False},
    "sdxl": {
        "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "interpolation_type": "linear",
        "use_karras_sigmas": False,
    },
}  # fmt: skip
"""Of the published models."""
_TRAILING = {"timestep_spacing": "trailing"}
_FEW_STEP_SCHEDULERS: dict[str, dict[str, Any]] = {
    "turbo": {"_class_name": "EulerDiscreteScheduler", **_TRAILING},
    "lightning": {"_class_name": "EulerDiscreteScheduler", **_TRAILING},
    "hyper": {"_class_name": "DDIMScheduler", "set_alpha_to_one": False, "clip_sample": False, **_TRAILING},
    "lcm": {"_class_name": "LCMScheduler", "original_inference_steps": 50, "set_alpha_to_one": False, "clip_sample": False},
}
"""As stabilityai/sd-turbo and LCM_Dreamshaper_v7 ship them, and as the authors of SDXL-Lightning and Hyper-SD say to draw."""
_XL_TURBO = {"_class_name": "EulerAncestralDiscreteScheduler", **_TRAILING}
"""As stabilityai/sdxl-turbo ships it."""
_LONGEST_TITLE = 80


@dataclass(frozen=True)
class Told:
    """What a file says.

    Attributes:
        prediction: ``epsilon`` or ``v_prediction``.
        zero_snr: trained on a noise schedule whose last level is noise alone.
        resolution: width and height of its pictures in pixels.
        original: of the ``.yaml``.
        few_steps: title that names a model of few steps; empty where it is none.
    """

    prediction: str = "epsilon"
    zero_snr: bool = False
    resolution: tuple[int, int] | None = None
    original: Original = field(default_factory=Original)
    few_steps: str = ""

    def scheduler_config(self, family: str) -> dict[str, Any]:
        """diffusers' scheduler of a family's published models, as the file has it.

        With a zero terminal SNR the last timestep must be among those sampled, so spacing is ``trailing`` (Lin et al. 2023, arXiv
        2305.08891, sections 3.1 to 3.3), and 1.x has DDIM, since PNDM in diffusers cannot rescale. A model of few steps has what
        its kind is drawn with.
        """
        own = _OWN_SCHEDULERS["sd2" if self.zero_snr and family == "sd1" else family]
        if kind := named_kind(self.few_steps):
            own = _XL_TURBO if (kind, family) == ("turbo", "sdxl") else _FEW_STEP_SCHEDULERS[kind]
        zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if self.zero_snr else {}
        return {**own, **_SCHEDULER, **dict(self.original.betas), **zero, "prediction_type": self.prediction}

    def sample_size(self, family: str, factor: int, levels: int) -> int | list[int]:
        """Side of the U-Net's latents, or height and width.

        Args:
            factor: pixels per latent.
            levels: of the U-Net. A resolution that it cannot halve so often is not believed.
        """
        if self.resolution and all(side and side % (factor * 2 ** (levels - 1)) == 0 for side in self.resolution):
            width, height = (side // factor for side in self.resolution)
            return width if width == height else [height, width]
        return 128 if family == "sdxl" else 96 if family == "sd2" and self.prediction == "v_prediction" else 64


def read_markers(path: Path, metadata: Mapping[str, str], keys: Iterable[str], family: str) -> Told:
    """Gather what a file says. Unless it says, 1.x and XL predict noise; 2.x exists in both kinds and has to say.

    Args:
        metadata: of its safetensors header: ModelSpec's, kohya's.
        keys: of its tensors.
        family: ``sd1``, ``sd2`` or ``sdxl``.

    Raises:
        S2PError: an EDM model, a prediction that is not known, statements that disagree, a 2.x file that says nothing, a bad
            ``.yaml``.
    """
    present = set(keys)
    _refuse_edm(path, present)
    beside = path.with_suffix(".yaml")
    original = read_original(beside) if beside.is_file() else Original()
    told = dict(_statements(path, metadata, present))
    if original.prediction:
        told[beside.name] = original.prediction
    if len(set(told.values())) > 1:
        said = " and ".join(f"{value} ({place})" for place, value in told.items())
        raise S2PError(f"{path} says that it predicts {said}", "correct what is wrong, or give the model as a diffusers folder")
    if not told and family == "sd2" and not beside.is_file():
        raise S2PError(
            f"{path} is a Stable Diffusion 2.x checkpoint that does not say whether it predicts noise or v",
            f"put its original configuration beside it as {beside.name}",
        )
    prediction = next(iter(told.values()), "epsilon")
    zero_snr = _marked("ztsnr", metadata, present) or metadata.get("ss_zero_terminal_snr", "").lower() == "true"
    if zero_snr and prediction != "v_prediction":
        raise S2PError(
            f"{path} says that its noise schedule ends in noise alone (ztsnr), where a model that predicts noise cannot start",
            "give the model as a diffusers folder",
        )
    title = " ".join(metadata.get("modelspec.title", "").split())[:_LONGEST_TITLE]
    few = title if named_kind(title) and prediction == "epsilon" else ""
    return Told(prediction, zero_snr, _resolution(metadata), original, few)


def _refuse_edm(path: Path, keys: set[str]) -> None:
    for marks, known in (
        (("edm_mean", "edm_std"), "Playground v2.5"),
        (("edm_vpred.sigma_max", "edm_vpred.sigma_min"), "CosXL"),
    ):
        if found := [mark for mark in marks if mark in keys]:
            raise S2PError(
                f"{path} was trained for EDM's noise levels ({', '.join(found)}), as {known} was, and no scheduler here has those",
                "give a model with the noise schedule of Stable Diffusion",
            )


def _statements(path: Path, metadata: Mapping[str, str], keys: set[str]) -> Iterable[tuple[str, str]]:
    """Place and prediction, of each place that says it."""
    if _marked("v_pred", metadata, keys):
        yield "v_pred", "v_prediction"
    for place in ("modelspec.prediction_type", "modelspec.predict_key"):  # ModelSpec's, and what ComfyUI calls it
        if told := metadata.get(place, "").strip().lower():
            if told not in _PREDICTIONS:
                raise S2PError(f"{path} predicts {told[:40]!r} ({place})", "give a model that predicts noise or v")
            yield place, _PREDICTIONS[told]
    architecture = metadata.get("modelspec.architecture", "")
    if architecture.startswith("stable-diffusion-v2-768-v"):
        yield "modelspec.architecture", "v_prediction"
    elif architecture.startswith("stable-diffusion-v2-512"):
        yield "modelspec.architecture", "epsilon"
    # kohya's sd-scripts and those who write as they do.
    told = metadata.get("ss_v_parameterization", "").lower()
    if told in ("true", "false"):
        yield "ss_v_parameterization", "v_prediction" if told == "true" else "epsilon"
    if re.fullmatch(r"sd_v[12]_v", metadata.get("ss_base_model_version", "")):
        yield "ss_base_model_version", "v_prediction"


def _marked(name: str, metadata: Mapping[str, str], keys: set[str]) -> bool:
    """Whether a mark is set: a tensor of that name without numbers, or an entry of the header that does not deny it."""
    return name in keys or metadata.get(name, "no").strip().lower() not in ("no", "false", "0")


def _resolution(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", metadata.get("modelspec.resolution", "").strip().lower())
    return (int(found[1]), int(found[2] or found[1])) if found else None
