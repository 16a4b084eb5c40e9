"""What is evaluated, and the FP model it is held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from s2p_converters.core.checkpoint import open_checkpoint
from s2p_converters.core.plan.schedulers import plan_for
from s2p_mobile.judge.evaluation.drawing import draw
from s2p_mobile.judge.source_kind import source_kind
from s2p_mobile.sources.model import DEMO_NAME, Model, open_model
from s2p_mobile.sources.pixel_size import pixel_size
from s2p_mobile.sources.torch_artist import checkpoint_artist, model_artist
from s2p_runtime.artist import Artist
from s2p_runtime.backends import Backend
from s2p_runtime.bundle import Bundle, open_bundle
from s2p_runtime.drawing import BundleArtist
from s2p_runtime.engines import open_backend
from s2p_runtime.errors import S2PError
from s2p_runtime.pictures import psnr_db
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.tensors import read_tensors

SAME_MODEL_DB = 40.0
"""The FP model repeats a bundle's FP latents at least this closely: float32 with another order of sums stays above 90 dB, while
the demo model rounded to 4 bits is already at 29 dB."""


@dataclass(frozen=True)
class EvaluationSource:
    """A source under test.

    Attributes:
        name: as it was given.
        artist: draws the source's pictures.
        reference: draws the FP pictures, under the same plan and guidance.
        model: the FP model.
        device: where torch U-Nets run.
    """

    name: str
    artist: Artist
    reference: Artist
    model: Model
    device: str = "cpu"


def open_source(
    source: str | Path | None,
    model: Model | None = None,
    *,
    plan: SamplingPlan | None = None,
    guidance: float | None = None,
    device: str = "cpu",
    backend: Callable[[Bundle], Backend] = open_backend,
) -> EvaluationSource:
    """Open a checkpoint, a bundle or a model folder (None or ``demo``: the demo model).

    Args:
        model: the FP model; when left out, the demo model if the source was made from it. Of a model folder it is what is drawn,
            opened with other sizes or with LoRA.
        plan: for a model folder: its plan; the model's own scheduler and number of steps when left out.
        guidance: for a model folder: instead of its default.
        device: torch device of the U-Nets.
        backend: opens a bundle's components.

    Raises:
        S2PError: not a source, or made from another model than the one at hand.
    """
    kind = source_kind(source)
    if kind == "model":
        name = DEMO_NAME if source is None else str(source)
        return _model_source(name, model or open_model(name), plan, guidance, device)
    folder = Path(str(source))
    if plan is not None or guidance is not None:
        raise S2PError(f"{folder} records its own plan and guidance", "leave the sampling options out")
    if kind == "checkpoint":
        return _checkpoint_source(folder, model, device)
    return _bundle_source(folder, model, device, backend)


def _model_source(name: str, model: Model, plan: SamplingPlan | None, guidance: float | None, device: str) -> EvaluationSource:
    chosen = model.choose_guidance(guidance)
    plan = plan or plan_for(model.folder / "scheduler", None, model.steps)
    artist = model_artist(model, plan, chosen, device)
    return EvaluationSource(name, artist, artist, model, device)


def _checkpoint_source(folder: Path, model: Model | None, device: str) -> EvaluationSource:
    checkpoint = open_checkpoint(folder)
    manifest = checkpoint.manifest
    if model is None:
        if manifest.source.name != DEMO_NAME:
            raise S2PError(
                f"{folder} was made from the model {manifest.source.name}", "give that model's folder with `model`", "model"
            )
        model = open_model(None)
    if model.unet_sha256 != manifest.source.unet_sha256:
        raise S2PError(
            f"{folder} was made from another U-Net than that of {model.name} (sha256 differs)",
            f"give the folder of {manifest.source.name} with `model`",
            "model",
        )
    if model.latents != manifest.latents:
        drawn = pixel_size(manifest.latents, model.vae_config)
        raise S2PError(f"{folder} draws {drawn}, not {model.picture_size}", "pass that as `size`", "size")
    artist = checkpoint_artist(str(folder), checkpoint, model, device)
    reference = model_artist(model, manifest.plan, manifest.guidance, device)
    return EvaluationSource(str(folder), artist, reference, model, device)


def _bundle_source(folder: Path, model: Model | None, device: str, backend: Callable[[Bundle], Backend]) -> EvaluationSource:
    bundle = open_bundle(folder)
    manifest = bundle.manifest
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
        "give the folder of its FP model with `model`, and its `size` and `lora`",
        "model",
    )
