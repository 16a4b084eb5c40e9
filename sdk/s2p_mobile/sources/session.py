"""What every command on a model decides first, in one place: model, sampling plan, guidance, size, device and seed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from s2p_converters.core.plan import plan_for
from s2p_mobile.sources.device import choose_device
from s2p_mobile.sources.few_steps import named_kind
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import as_model
from s2p_mobile.sources.pixel_size import PixelSize, SizeLike
from s2p_runtime.errors import S2PError, S2PWarning
from s2p_runtime.plan import SamplingPlan


@dataclass(frozen=True)
class Session:
    """A model and how it is run.

    Attributes:
        model: opened at its picture size, with LoRA fused and, of a latent consistency model, the guidance embedded.
        plan: the sampling plan, T calls.
        guidance: classifier-free guidance of the sampling loop; at or below 1 the batch is one. 1 where it is embedded.
        device: where torch runs the U-Net.
        seed: of the noise of the first prompt; prompt k has ``seed + k``.
    """

    model: Model
    plan: SamplingPlan
    guidance: float
    device: torch.device
    seed: int = 0

    @property
    def size(self) -> PixelSize:
        """Of the pictures."""
        return self.model.picture_size


def open_session(
    source: Model | str | Path | None,
    *,
    size: SizeLike | None = None,
    lora: Sequence[str | Path] = (),
    embedding: Sequence[str | Path] = (),
    allow_pickle: bool = False,
    scheduler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> Session:
    """Open a model, unless it is open already, and decide how it is run.

    Args:
        source: model, diffusers folder or ``.safetensors`` file; None is the built-in model.
        size: of the pictures; the model's own when None.
        lora: ``FILE[:scale]`` each, fused into the weights in their order.
        embedding: textual inversions, ``FILE[:word]`` each.
        allow_pickle: read pickled weights too, weights only.
        scheduler: a sampler by name; the model's own when None.
        steps: denoising steps, 1 to 1000; the model's own number when None.
        guidance: 0 to 100; the model's own when None. A latent consistency model takes it into its time path.
            What the files of a few-step model decide here is told as a warning.
        device: as :func:`~s2p_mobile.sources.device.choose_device`.

    Raises:
        S2PError: a bad model, LoRA, embedding, size, scheduler or device; steps, guidance or seed out of range; size, LoRA or
            embedding for a model that is open already.
    """
    chosen = choose_device(device)
    check_numbers(steps, guidance, seed)
    model = as_model(source, size, lora, embedding, allow_pickle)
    if guidance is not None and model.embedded_guidance is not None and guidance != model.embedded_guidance:
        model = model.with_embedded_guidance(guidance)
    if decided := _decided(model, steps, guidance):
        warnings.warn(decided, S2PWarning, stacklevel=3)
    return Session(
        model=model,
        plan=plan_for(model.folder / "scheduler", scheduler, steps or model.steps),
        guidance=model.guidance if guidance is None or model.embedded_guidance is not None else guidance,
        device=chosen,
        seed=seed,
    )


def _decided(model: Model, steps: int | None, guidance: float | None) -> str | None:
    """What the files of a few-step model decide because a caller does not, for people."""
    few = model.few_steps
    if few is None:
        return None if steps is not None and guidance is not None else _named_only(model, steps, guidance)
    if steps is not None and guidance is not None:
        return None
    parts = []
    if steps is None:
        parts.append(f"{few.steps} step{'s' if few.steps > 1 else ''}")
    if guidance is None:
        embedded = model.embedded_guidance
        parts.append(f"guidance {model.guidance:g}" if embedded is None else f"guidance {embedded:g} in its time path")
    return f"{model.name} is {few.title}: {' and '.join(parts)}"


def _named_only(model: Model, steps: int | None, guidance: float | None) -> str | None:
    """Of a single file that is called a few-step model and does not say that it is one: that a name decides nothing."""
    kind = named_kind(model.name)
    if kind is None or not model.sources[0][0].is_file():
        return None
    parts = [f"{model.steps} steps"] if steps is None else []
    parts += [f"guidance {model.guidance:g}"] if guidance is None else []
    return (
        f"{model.name} is called {kind} and its header (modelspec.title) does not say so: {' and '.join(parts)}, as of any model; "
        "for the few steps of that kind give it as a diffusers folder"
    )


def check_numbers(steps: int | None, guidance: float | None, seed: int) -> None:
    """Raise :class:`S2PError` when one is out of range; None stands for a model's own."""
    if steps is not None and not 1 <= steps <= 1000:
        raise S2PError(f"{steps} steps are not between 1 and 1000", "leave `steps` out for the model's own", "steps")
    if guidance is not None and not 0 <= guidance <= 100:
        raise S2PError(f"guidance {guidance} is not between 0 and 100", "leave `guidance` out for the model's own", "guidance")
    if not 0 <= seed < 2**63:
        raise S2PError(f"seed {seed} is out of range", f"give one from 0 to {2**63 - 1}", "seed")
