"""What the Swift package of apple/coreai-models asks of a folder, and the settings under which a model fits it.

Sources, in its ``swift/Sources/CoreAIDiffusionPipeline``: ``PipelineDescriptor.swift`` (``metadata.json``),
``PipelineDescriptor+CoreAI.swift`` (files, the picture's size), ``StableDiffusionPipeline.swift`` (77 tokens, two branches, four
latent channels, eight pixels to a latent) and ``CoreAIDiffusionModelFunction.swift`` (inputs by their order, one function ``main``,
loaded for the GPU).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.coreai.options import FILES, FOLDER, CoreAIOptions
from s2p_converters.targets.float_modules import pixels_per_latent
from s2p_converters.targets.ports import branches
from s2p_converters.targets.swift_tokenizer import misframed, prompt_notes
from s2p_converters.targets.timesteps import (
    TRAIN_STEPS,
    Schedule,
    linspace_timesteps,
    matching_schedule,
    pndm_timesteps,
    scheduler_configuration,
)
from s2p_runtime.conditioning import conditioner_of
from s2p_runtime.errors import S2PError

_TOKENS, _CHANNELS, _PIXELS = 77, 4, 8
_SCHEDULES: tuple[Schedule[str], ...] = (Schedule("pndm", pndm_timesteps, repeats=1), Schedule("dpmpp", linspace_timesteps))
_DIFFERS = (
    "the package draws noise of its own, so that a seed gives another picture than with s2p-mobile",
    "the package passes timesteps, each of which uses the nearest call of the plan",
)
"""For every model."""
_SAME_RULE = {"pndm": "PNDMScheduler", "dpmpp": "DPMSolverMultistepScheduler"}


@dataclass(frozen=True)
class PackageSettings:
    """Arguments of the package's ``diffusion-runner``.

    Attributes:
        scheduler: None: none of the package visits every call of the plan once.
        notes: what else differs from s2p-mobile, for people.
    """

    scheduler: str | None
    steps: int
    guidance: float
    notes: tuple[str, ...]

    def describe(self) -> str:
        """In words."""
        return f"scheduler {self.scheduler or 'dpmpp'}, {self.steps} steps, guidance {self.guidance:g}"


def package_settings(checkpoint: Checkpoint, options: CoreAIOptions) -> PackageSettings:
    """The package's settings for a checkpoint, converted with these options.

    Raises:
        S2PError: the package cannot draw with this model (says why).
    """
    manifest, plan = checkpoint.manifest, checkpoint.manifest.plan
    if tuple(conditioner_of(manifest).inputs) != ("encoder_hidden_states",):
        raise _unsuitable("has two text encoders and a time table of its own for each prompt (SDXL), the package one for all")
    for what, found, wanted in (
        ("tokens to a text", manifest.tokenizer.max_length, _TOKENS),
        ("latent channels", manifest.latents.channels, _CHANNELS),
        ("pixels to a latent", pixels_per_latent(checkpoint), _PIXELS),
        ("branches to a call", branches(checkpoint), 2),
    ):
        if found != wanted:
            raise _unsuitable(f"has {found} {what}, the package takes {wanted}")
    if manifest.latents.height != manifest.latents.width:
        raise _unsuitable("draws oblong pictures, the package square ones")
    if plan.prediction_type not in ("epsilon", "v_prediction"):
        raise _unsuitable(f"predicts {plan.prediction_type}, the package knows epsilon and v_prediction")
    if manifest.latents.shift_factor != 0 or manifest.latents.mean is not None or manifest.latents.std is not None:
        raise _unsuitable("shifts its latents, the package only scales them")
    config, schedule = scheduler_configuration(checkpoint), _scheduler(checkpoint)
    known = schedule["beta_schedule"] == "scaled_linear" and schedule["training_steps"] == TRAIN_STEPS
    if not known or config.get("trained_betas") is not None:
        raise _unsuitable("was trained with another noise schedule than scaled_linear over 1000 steps")
    if reason := misframed(checkpoint, "the package"):
        raise _unsuitable(reason)
    scheduler, steps, apart = matching_schedule(plan.timesteps, _SCHEDULES)
    notes = [*_DIFFERS, *prompt_notes(checkpoint, "the package")]
    if options.form != "tokens":
        notes.append("the package loads every program for the GPU, and this U-Net is in the form for the Neural Engine")
    if scheduler is None:
        notes.append("no scheduler of the package visits every call of the plan once")
    elif apart >= 1:
        notes.append(f"the package's scheduler asks for timesteps up to {apart:.0f} away from the plan's")
    elif plan.scheduler != _SAME_RULE[scheduler] or any(call.noise for call in plan.calls):
        notes.append(f"the plan is of {plan.scheduler}; the package makes the same calls and combines them otherwise")
    return PackageSettings(scheduler, steps, manifest.guidance, tuple(notes))


def _scheduler(checkpoint: Checkpoint) -> dict[str, Any]:
    """The block ``scheduler`` of the metadata, from the model's own configuration."""
    config = scheduler_configuration(checkpoint)
    return {
        "training_steps": config.get("num_train_timesteps", TRAIN_STEPS),
        "beta_start": config.get("beta_start", 0.00085),
        "beta_end": config.get("beta_end", 0.012),
        "beta_schedule": config.get("beta_schedule", "scaled_linear"),
    }


def write_metadata(checkpoint: Checkpoint, options: CoreAIOptions, folder: Path) -> None:
    """Write ``metadata.json``, version 0.2, beside the programs in a bundle's folder."""
    settings, latents = package_settings(checkpoint, options), checkpoint.manifest.latents
    factor = latents.scaling_factor
    diffusion = {
        "type": "stable-diffusion",
        "prediction_type": checkpoint.manifest.plan.prediction_type,
        "encoder_scale_factor": factor,
        "decoder_scale_factor": factor,
        "decoder_shift_factor": 0.0,
        "image_size": latents.height * _PIXELS,
        "default_guidance_scale": settings.guidance,
        "default_steps": settings.steps,
        "scheduler": _scheduler(checkpoint),
    }
    metadata = {
        "metadata_version": "0.2",
        "kind": "diffusion",
        "name": checkpoint.manifest.source.name,
        "assets": FILES,
        "diffusion": diffusion,
        "source": {"model_definition": "torch", "hf_model_id": checkpoint.manifest.source.name},
        "compression": "s2p-mobile",
        "compilation": {"date": None, "targets": []},
    }
    (folder / FOLDER / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")


def _unsuitable(reason: str) -> S2PError:
    return S2PError(f"`layout=coreai-models`: the model {reason}", "leave the option out and draw with the plan", "layout")
