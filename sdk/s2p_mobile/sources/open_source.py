"""What a path is: a model (diffusers folder or single file), a checkpoint or a bundle. The one place that decides it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias, TypeGuard

from s2p_converters.core.checkpoint import Checkpoint, is_checkpoint, open_checkpoint
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.places import locate
from s2p_runtime.bundle import MANIFEST_NAME, Bundle, open_bundle
from s2p_runtime.errors import S2PError

SourceLike: TypeAlias = Model | Checkpoint | Bundle | str | Path | None
"""A path, something that is open already, or None for the built-in model."""
Kind = Literal["model", "checkpoint", "bundle", "other"]
"""``other``: a folder that is none of them. Opened as a model it gets an error that says what it is."""

_MADE_BY = {"checkpoint": "give a checkpoint made by s2p-mobile quantize", "bundle": "give a bundle made by s2p-mobile convert"}


def source_kind(source: SourceLike) -> Kind:
    """What a source is, without opening it.

    Raises:
        S2PError: a path that does not exist, and no model in the Hugging Face cache is called so.
    """
    if source is None or isinstance(source, Model):
        return "model"
    if isinstance(source, Checkpoint):
        return "checkpoint"
    if isinstance(source, Bundle):
        return "bundle"
    path, _ = locate(source)
    if (path / MANIFEST_NAME).is_file():
        return "bundle"
    if is_checkpoint(path):
        return "checkpoint"
    return "model" if path.is_file() or (path / "model_index.json").is_file() else "other"


def is_model(source: SourceLike) -> TypeGuard[Model | str | Path | None]:
    """Whether a source is to be opened as a model: it is neither a checkpoint nor a bundle.

    Raises:
        S2PError: a path that does not exist.
    """
    return source_kind(source) in ("model", "other")


def open_source(
    source: SourceLike, *, lora: Sequence[str | Path] = (), embedding: Sequence[str | Path] = ()
) -> Model | Checkpoint | Bundle:
    """Open whatever a source is; what is open already is given back.

    Args:
        lora, embedding: of a model, see :func:`~s2p_mobile.sources.opening.open_model`.

    Raises:
        S2PError: nothing there, damaged, or ``lora`` or ``embedding`` for a checkpoint or a bundle.
    """
    kind = source_kind(source)
    if kind in ("checkpoint", "bundle"):
        title = source.folder if isinstance(source, Checkpoint | Bundle) else source
        if lora:
            remedy = "fuse LoRA into the model before, with quantize `lora`"
            raise S2PError(f"{title} holds its weights as they are", remedy, "lora")
        if embedding:
            remedy = "add others to the model before, with quantize `embedding`"
            raise S2PError(f"{title} knows the words that it knows", remedy, "embedding")
    if isinstance(source, Model | Checkpoint | Bundle):
        return source
    if source is not None and kind == "checkpoint":
        return open_checkpoint(locate(source)[0])
    if source is not None and kind == "bundle":
        return open_bundle(locate(source)[0])
    return open_model(source, None, lora, embedding)


def as_checkpoint(source: Checkpoint | str | Path) -> Checkpoint:
    """A checkpoint, opened unless it is.

    Raises:
        S2PError: something else, or damaged.
    """
    if isinstance(source, Checkpoint):
        return source
    _demand("checkpoint", source)
    return open_checkpoint(locate(source)[0])


def as_bundle(source: Bundle | str | Path) -> Bundle:
    """A bundle, opened unless it is.

    Raises:
        S2PError: something else, or damaged.
    """
    if isinstance(source, Bundle):
        return source
    _demand("bundle", source)
    return open_bundle(locate(source)[0])


def _demand(kind: Kind, source: str | Path) -> None:
    """Name what a folder is when it is of another kind; what is none of them is for its reader to describe."""
    found = source_kind(source) if locate(source)[0].is_dir() else kind
    if found not in (kind, "other"):
        raise S2PError(f"{source} is a {found}", _MADE_BY[kind])
