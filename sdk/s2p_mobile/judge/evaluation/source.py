"""What is evaluated, and the FP model it is held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from s2p_converters.core.checkpoint import Checkpoint
from s2p_mobile.judge.evaluation.drawing import draw
from s2p_mobile.sources.device import choose_device
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.open_source import SourceLike, open_source
from s2p_mobile.sources.opening import as_model, open_model
from s2p_mobile.sources.pixel_size import pixel_size
from s2p_mobile.sources.session import Session, open_session
from s2p_mobile.sources.torch_artist import checkpoint_artist, model_artist
from s2p_runtime.artist import Artist
from s2p_runtime.backends import Backend
from s2p_runtime.bundle import Bundle
from s2p_runtime.drawing import BundleArtist
from s2p_runtime.engines import open_backend
from s2p_runtime.errors import S2PError
from s2p_runtime.pictures import psnr_db
from s2p_runtime.tensors import read_tensors

CPU = torch.device("cpu")
SAME_MODEL_DB = 40.0
"""The FP model repeats a bundle's FP latents at least this closely: float32 with another order of sums stays above 90 dB, while
the demo model rounded to 4 bits is already at 29 dB."""


@dataclass(frozen=True)
class EvaluationSource:
    """A source under test.

    Attributes:
        name: of the model, or the folder.
        artist: draws the source's pictures.
        reference: draws the FP pictures, under the same plan and guidance.
        model: the FP model.
        device: where torch U-Nets run; another one rounds differently.
    """

    name: str
    artist: Artist
    reference: Artist
    model: Model
    device: torch.device = CPU


def open_evaluation(
    source: Session | SourceLike,
    model: Model | str | Path | None = None,
    *,
    device: str | torch.device = "auto",
    backend: Callable[[Bundle], Backend] = open_backend,
) -> EvaluationSource:
    """Pair a source with the FP model that it is held against.

    Args:
        source: a checkpoint, a bundle, or a model with its sampling decided; of another model, its own settings.
        model: the FP model of a checkpoint or a bundle; when left out the built-in one, if the source was made from it.
        device: where torch U-Nets run; a session has its own.
        backend: opens a bundle's components.

    Raises:
        S2PError: not a source, made from another model than the one at hand, or ``model`` for a model.
    """
    if isinstance(source, Session):
        return _model_source(source, model)
    opened = open_source(source)
    if isinstance(opened, Model):
        return _model_source(open_session(opened, device=device), model)
    chosen, reference = choose_device(device), None if model is None else as_model(model)
    if isinstance(opened, Checkpoint):
        return _checkpoint_source(opened, reference, chosen)
    return _bundle_source(opened, reference, chosen, backend)


def _model_source(session: Session, model: Model | str | Path | None) -> EvaluationSource:
    if model is not None:
        raise S2PError(
            "`model` names the floating-point model of a checkpoint or a bundle", "leave it out for a model", "model"
        )
    artist = model_artist(session.model, session.plan, session.guidance, session.device)
    return EvaluationSource(session.model.name, artist, artist, session.model, session.device)


def _checkpoint_source(checkpoint: Checkpoint, model: Model | None, device: torch.device) -> EvaluationSource:
    folder, manifest = checkpoint.folder, checkpoint.manifest
    wanted = manifest.source.unet_sha256
    if model is None:
        model = open_model(None)
        if model.unet_sha256 != wanted:
            raise S2PError(
                f"{folder} was made from the model {manifest.source.name}", "give that model's folder with `model`", "model"
            )
    if model.unet_sha256 != wanted:
        raise S2PError(
            f"{folder} was made from another U-Net than that of {model.name} (sha256 differs)",
            f"give the folder of {manifest.source.name} with `model`",
            "model",
        )
    if model.text_sha256 != manifest.source.text_sha256 or model.conditioner.tokenizer_spec != manifest.tokenizer:
        raise S2PError(
            f"{folder} was made with other text encoders or tokenizers than those of {model.name}",
            "give the `lora` and `embedding` with which it was made",
            "model",
        )
    guidance = manifest.source.embedded_guidance
    if guidance is not None and guidance != model.embedded_guidance:
        model = model.with_embedded_guidance(guidance)
    if model.latents != manifest.latents:
        drawn = pixel_size(manifest.latents, model.vae_config)
        raise S2PError(f"{folder} draws {drawn}, not {model.picture_size}", "pass that as `size`", "size")
    artist = checkpoint_artist(str(folder), checkpoint, model, device)
    reference = model_artist(model, manifest.plan, manifest.guidance, device)
    return EvaluationSource(str(folder), artist, reference, model, device)


def _bundle_source(
    bundle: Bundle, model: Model | None, device: torch.device, backend: Callable[[Bundle], Backend]
) -> EvaluationSource:
    folder, manifest = bundle.folder, bundle.manifest
    model = model or open_model(None)
    if model.latents != manifest.latents:
        raise _wrong_model(folder, model)
    reference = model_artist(model, manifest.plan, manifest.guidance, device)
    # A bundle does not record its source model, but it holds what that model drew.
    for run in manifest.golden[:1]:
        recorded = read_tensors(bundle.path(run.path)).get("fp_latents")
        final = draw(reference, [run.prompt], [run.seed]).states[:, -1]
        if recorded is None or recorded.shape != final.shape:
            raise S2PError(
                f"golden run {run.id} of {folder} has no fp_latents of shape {list(final.shape)}", "convert it again"
            )
        closeness = psnr_db(final, recorded)
        if closeness is not None and closeness < SAME_MODEL_DB:
            raise _wrong_model(folder, model)
    return EvaluationSource(str(folder), BundleArtist(bundle, backend(bundle)), reference, model, device)


def _wrong_model(folder: Path, model: Model) -> S2PError:
    return S2PError(
        f"{folder} was not made from the model {model.name}",
        "give the folder of its FP model with `model`, and its `size`, `lora` and `embedding`",
        "model",
    )
