"""Opening what users bring: written as a diffusers folder where it is none, with LoRA and learned words built in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from s2p_converters.core.resources import parameter_count, require_disk
from s2p_mobile.demo import DEMO_MODEL
from s2p_mobile.sources.defaults import read_defaults
from s2p_mobile.sources.lora import ADAPTER_CONFIG, COMPONENTS, fuse, parse_lora
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.origin import mark_origin, title
from s2p_mobile.sources.pixel_size import PixelSize, SizeLike
from s2p_mobile.sources.places import locate
from s2p_mobile.sources.staging import needs_staging, write_staged
from s2p_mobile.sources.textual_inversion import ENCODERS, add_words, parse_embedding
from s2p_mobile.sources.weight_folder import check_entries
from s2p_runtime.errors import S2PError

Files = Sequence[str | Path] | str | Path


@dataclass(frozen=True)
class _Change:
    """A file that changes a model.

    Attributes:
        said: what was said about it.
        verb: what is done with it, for people.
        parts: components that may be written anew, in float32.
        write: (model's folder, an empty one) -> the changed model in the latter.
    """

    file: Path
    said: str
    verb: str
    parts: Sequence[str]
    write: Callable[[Path, Path], None]


def open_model(
    source: str | Path | None,
    size: PixelSize | None = None,
    loras: Files = (),
    embeddings: Files = (),
    allow_pickle: bool = False,
) -> Model:
    """Open a model: a diffusers folder, a single file, or a hub id that was downloaded before; None is the built-in demo model.

    A single file, a folder with pickled weights, and a model with LoRA or learned words is written as a diffusers folder in the
    system's temporary folder (``TMPDIR``) and removed with the model.

    Args:
        size: of the pictures; the model's own when None.
        loras: ``FILE[:scale]`` each, fused in their order.
        embeddings: textual inversions, ``FILE[:word]`` each.
        allow_pickle: read pickled weights, by torch's weights-only reader, and say so in a note.

    Raises:
        S2PError: as :class:`Model`; a bad file; a link out of the folder; pickled weights that are not allowed; too little disk.
    """
    given, hub_name = (DEMO_MODEL, None) if source is None else locate(source)
    changes = [*map(_lora, _listed(loras)), *(_embedding(each, allow_pickle) for each in _listed(embeddings))]
    if given.is_dir():
        check_entries(given)
    staged = needs_staging(given, allow_pickle)
    if not staged and not changes:
        return Model(given, size, hub_name)
    # A finished checkpoint in the folder is of the weights as they lie there.
    defaults = None if given.is_file() else replace(read_defaults(given), checkpoint=None)
    name = hub_name or (defaults.name or given.resolve().name if defaults else given.stem)
    if not staged:
        Model(given, size, name)  # says what is wrong before anything is written
    scratch = TemporaryDirectory(prefix="s2p-mobile-")
    try:
        path = write_staged(given, _stage(scratch, "model"), allow_pickle) if staged else given
        for index, change in enumerate(changes):
            folder = _stage(scratch, str(index))
            needed = 4 * sum(parameter_count(path / part) for part in change.parts)
            require_disk(folder, needed, f"{change.verb} {change.file.name}", "set TMPDIR to a folder on a larger disk")
            change.write(path, folder)
            mark_origin(folder, f"{title(path)} with {change.file.name}")
            path, name = folder, f"{name}+{change.file.stem}"
        model = Model(path, size, name, defaults=defaults)
    except BaseException:
        scratch.cleanup()
        raise
    model.scratch = scratch
    beside = [file for file in (given.with_suffix(".yaml"),) if given.is_file() and file.is_file()]
    settings = [change.file.with_name(ADAPTER_CONFIG) for change in changes]
    model.sources = (
        (given, ""),
        *((change.file, change.said) for change in changes),
        *((file, "") for file in (*beside, *settings) if file.is_file()),
    )
    return model


def as_model(
    source: Model | str | Path | None,
    size: SizeLike | None = None,
    lora: Files = (),
    embedding: Files = (),
    allow_pickle: bool = False,
) -> Model:
    """A model, opened unless it is; ``allow_pickle`` is of no matter then.

    Raises:
        S2PError: as :func:`open_model`; another size, LoRA or learned words for a model that is open already.
    """
    wanted = PixelSize.of(size)
    if not isinstance(source, Model):
        return open_model(source, wanted, lora, embedding, allow_pickle)
    if lora or embedding or (wanted is not None and wanted != source.picture_size):
        what = "lora" if lora else "embedding" if embedding else "size"
        raise S2PError(f"the model {source.name} is open already", f"give `{what}` where it is loaded", what)
    return source


def _listed(files: Files) -> Sequence[str | Path]:
    return [files] if isinstance(files, str | Path) else files


def _lora(text: str | Path) -> _Change:
    file, scale = parse_lora(str(text))
    return _Change(file, str(scale), "fusing", COMPONENTS, partial(fuse, path=file, scale=scale))


def _embedding(text: str | Path, allow_pickle: bool) -> _Change:
    file, word = parse_embedding(str(text), allow_pickle)
    return _Change(file, word or "", "adding", tuple(ENCODERS), partial(add_words, path=file, word=word))


def _stage(scratch: TemporaryDirectory[str], name: str) -> Path:
    folder = Path(scratch.name) / name
    folder.mkdir()
    return folder
