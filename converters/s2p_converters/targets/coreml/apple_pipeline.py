"""What the Swift pipeline of apple/ml-stable-diffusion fixes by itself, and the settings under which a model fits it.

The pipeline calls its own scheduler. The tables of a quantized U-Net hold the plan's calls, so the scheduler of the app must
visit those timesteps, each once. Formulas: ``Scheduler.swift`` (PNDM) and ``DPMSolverMultistepScheduler.swift``.
"""

from __future__ import annotations

from dataclasses import dataclass

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.swift_tokenizer import misframed, prompt_notes
from s2p_converters.targets.timesteps import (
    TRAIN_STEPS,
    Schedule,
    karras_timesteps,
    leading_timesteps,
    linspace_timesteps,
    matching_schedule,
    pndm_timesteps,
    scheduler_configuration,
)
from s2p_runtime.conditioning import conditioner_of
from s2p_runtime.errors import S2PError

_NOISE_SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": TRAIN_STEPS,
}
DEFAULT_SCALE_FACTOR = 0.18215
_PNDM, _DPM = ".pndmScheduler", ".dpmSolverMultistepScheduler"
_SAME_RULE = {_PNDM: "PNDMScheduler", _DPM: "DPMSolverMultistepScheduler"}


_SCHEDULES: tuple[Schedule[tuple[str, str | None]], ...] = (
    Schedule((_PNDM, None), pndm_timesteps, repeats=1),
    Schedule((_DPM, ".linspace"), linspace_timesteps),
    Schedule((_DPM, ".leading"), leading_timesteps),
    Schedule((_DPM, ".karras"), karras_timesteps),
)


@dataclass(frozen=True)
class PipelineSettings:
    """Values for the pipeline's ``Configuration``.

    Attributes:
        scheduler: ``schedulerType``, and ``spacing`` its ``schedulerTimestepSpacing``; None: no scheduler of the pipeline
            visits every call of the plan once.
        steps: ``stepCount``.
        guidance: ``guidanceScale``; 0 for a model without guidance.
        scale_factor: ``decoderScaleFactor``.
        notes: what else differs from s2p-mobile, for people.
    """

    scheduler: str | None
    spacing: str | None
    steps: int
    guidance: float
    scale_factor: float
    notes: tuple[str, ...]

    def describe(self) -> str:
        """The assignments as one line of Swift."""
        values = {
            "schedulerType": self.scheduler,
            "schedulerTimestepSpacing": self.spacing,
            "stepCount": self.steps,
            "guidanceScale": f"{self.guidance:g}",
            "decoderScaleFactor": f"{self.scale_factor:g}" if self.scale_factor != DEFAULT_SCALE_FACTOR else None,
        }
        return ", ".join(f"{name} = {value}" for name, value in values.items() if value is not None)


def pipeline_settings(checkpoint: Checkpoint) -> PipelineSettings:
    """The pipeline's settings for a checkpoint.

    Raises:
        S2PError: the pipeline cannot draw with this model: its noise schedule, prediction type, latent shift or the tokens
            that frame a prompt are others than the pipeline's own.
    """
    manifest = checkpoint.manifest
    plan = manifest.plan
    if tuple(conditioner_of(manifest).inputs) != ("encoder_hidden_states",):
        raise _unsuitable("has two text encoders and a time table of its own for each prompt (SDXL), this layout one for all")
    if plan.prediction_type != "epsilon":
        raise _unsuitable(f"predicts {plan.prediction_type}, the pipeline expects epsilon")
    if manifest.latents.shift_factor != 0 or manifest.latents.mean is not None or manifest.latents.std is not None:
        raise _unsuitable("shifts its latents, the pipeline only scales them")
    _check_noise_schedule(checkpoint)
    if reason := misframed(checkpoint, "the pipeline"):
        raise _unsuitable(reason)
    notes = prompt_notes(checkpoint, "the pipeline")
    found, steps, apart = matching_schedule(plan.timesteps, _SCHEDULES)
    scheduler, spacing = found or (None, None)
    if scheduler is None:
        notes.append("no scheduler of the pipeline visits every call of the plan once; each timestep uses the nearest call")
    elif apart >= 1:
        notes.append(
            f"the pipeline's scheduler asks for timesteps that are up to {apart:.0f} away from those of the plan "
            f"({plan.scheduler}) and gets the nearest calls, so that other pictures come out"
        )
    elif plan.scheduler != _SAME_RULE[scheduler] or any(call.noise for call in plan.calls):
        notes.append(
            f"the plan is of {plan.scheduler}; the pipeline's scheduler makes the same calls and combines them otherwise"
        )
    guidance = manifest.guidance if manifest.guidance > 1 else 0.0
    return PipelineSettings(scheduler, spacing, steps, guidance, manifest.latents.scaling_factor, tuple(notes))


def _check_noise_schedule(checkpoint: Checkpoint) -> None:
    config = scheduler_configuration(checkpoint)
    for name, value in _NOISE_SCHEDULE.items():
        if config.get(name) != value or config.get("trained_betas") is not None:
            raise _unsuitable(f"was trained with {name} {config.get(name)}, the pipeline's schedulers have {value}")


def _unsuitable(reason: str) -> S2PError:
    return S2PError(f"`layout=apple`: the model {reason}", "leave the option out and draw with the plan", "layout")
