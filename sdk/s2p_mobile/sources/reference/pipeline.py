"""The pipeline that diffusers opens from a model's folder, on the weights that the model holds already."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from s2p_mobile.sources.families import text_to_image
from s2p_mobile.sources.model import Model
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import

with quiet_import():
    import diffusers


@dataclass(frozen=True, eq=False)
class Call:
    """One U-Net call of the pipeline.

    Attributes:
        sample: what the U-Net is given, float32 [B, C, h, w].
        timestep: that it is told.
        conditions: text embeddings [B, N, D], and pooled texts [B, P] where there are any.
        output: [B, C, h, w].
        generator: state of the pipeline's random numbers at this call, before its scheduler draws.
    """

    sample: Tensor
    timestep: float
    conditions: tuple[Tensor, ...]
    output: Tensor
    generator: Tensor


@dataclass(eq=False)
class Recording:
    """A run of the pipeline: its calls, the state after each [1, C, h, w], and what it decoded.

    Attributes:
        decoded: corner of what the VAE was given, [1, C, k, k].
        picture: what the VAE made of that corner, [1, 3, H, W].
    """

    calls: list[Call] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    decoded: Tensor | None = None
    picture: Tensor | None = None


def has_reference(model: Model) -> bool:
    """Whether diffusers has the model's pipeline; a family from outside may have one of its own."""
    return text_to_image(str(model.index["_class_name"])) in dir(diffusers)


def open_pipeline(model: Model) -> Any:
    """What ``from_pretrained`` makes of the model's folder, with the modules that the model has loaded.

    Scheduler and tokenizers are diffusers' and transformers' own reading; what only filters pictures is left out.

    Raises:
        S2PError: diffusers refuses the folder.
    """
    with quiet_import():
        kind = getattr(diffusers, text_to_image(str(model.index["_class_name"])))
    accepted = inspect.signature(kind.__init__).parameters
    parts: dict[str, Any] = {
        name: None for name in ("safety_checker", "feature_extractor", "image_encoder") if name in accepted
    }
    parts |= {name: False for name in ("requires_safety_checker", "add_watermarker") if name in accepted}
    parts |= {model.denoiser.folder: model.diffusers_unet, "vae": model.vae}
    parts |= {name: getattr(model.conditioner, name) for name in model.family.text_encoders}
    try:
        with quiet_import(), contextlib.redirect_stderr(io.StringIO()):
            pipeline = kind.from_pretrained(model.folder, local_files_only=True, **parts)
    except Exception as error:
        raise refused(model, "open", error) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def refused(model: Model, verb: str, error: Exception, under: str = "") -> S2PError:
    """diffusers cannot open, or draw with, a model.

    Args:
        under: what it draws with, in words.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return S2PError(f"diffusers itself cannot {verb} {model.name}{under} ({text})", "export the model again with diffusers")


def with_denoiser(pipeline: Any, name: str, recording: Recording, generator: torch.Generator, chosen: set[int]) -> None:
    """Let a pipeline's denoiser, its component of that name, record its calls.

    It computes the chosen ones, for the last sample of the batch; all else is noise.
    """
    unet = getattr(pipeline, name)
    noise = torch.Generator().manual_seed(1)

    def forward(sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **more: Any) -> tuple[Tensor]:
        state = generator.get_state()
        output = torch.randn(sample.shape, generator=noise)
        if len(recording.calls) in chosen:
            last = {name: _last(value) for name, value in more.items() if name != "return_dict"}
            output[-1:] = unet(sample[-1:], timestep, encoder_hidden_states[-1:], return_dict=False, **last)[0]
        pooled = (more.get("added_cond_kwargs") or {}).get("text_embeds")
        conditions = (encoder_hidden_states,) if pooled is None else (encoder_hidden_states, pooled)
        recording.calls.append(Call(sample.clone(), float(timestep), conditions, output, state))
        return (output,)

    setattr(pipeline, name, _standing_in(unet, forward=forward))


def with_vae(pipeline: Any, recording: Recording, corner: int) -> None:
    """Let a pipeline's VAE decode, and record, a corner of its input."""
    vae = pipeline.vae

    def decode(latents: Tensor, **_: Any) -> tuple[Tensor]:
        recording.decoded = latents[..., :corner, :corner].clone()
        recording.picture = vae.decode(recording.decoded, return_dict=False)[0]
        return (recording.picture,)

    pipeline.vae = _standing_in(vae, decode=decode)


def _standing_in(module: Any, **methods: Callable[..., Any]) -> Any:
    """The same module, weights shared, with other methods."""
    other = copy.copy(module)
    vars(other).update(methods)
    return other


def _last(value: Any) -> Any:
    """Of the last sample of a batch: a tensor's last row, through mappings; anything else as it is."""
    if isinstance(value, Tensor):
        return value[-1:]
    return {name: _last(each) for name, each in value.items()} if isinstance(value, dict) else value
