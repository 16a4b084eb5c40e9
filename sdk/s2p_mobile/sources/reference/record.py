"""Each model is compared with diffusers once, a single file as it was unpacked.

What came of it is kept in the cache folder, under a key of all that it depends on.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from s2p_converters.core.plan import own_scheduler
from s2p_mobile.sources.cache_folder import cache_folder
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.reference.comparison import Difference, compare
from s2p_mobile.sources.reference.pipeline import has_reference
from s2p_runtime import __version__
from s2p_runtime.contract import Contract, read_contract, write_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.files import atomic_file, list_files, sha256_file
from s2p_runtime.progress import Progress, Silent

_FORMAT: Final = "s2p-compared"
_VERSION: Final = 1
_LIBRARIES = ("diffusers", "transformers", "tokenizers", "torch")
_CONTENT_BYTES = 1 << 20
"""Files up to this size, configurations among them, are known by their content too."""
_PARTS_ASIDE = ("safety_checker", "feature_extractor", "image_encoder")


class _Compared(Contract):
    format: Literal["s2p-compared"] = _FORMAT
    version: Literal[1] = _VERSION
    differences: dict[str, float]


def require_same(model: Model, progress: Progress | None = None) -> None:
    """Compare a model with diffusers, unless these very files were compared before. A family from outside, whose pipeline diffusers
    does not have, is taken as it is.

    Args:
        progress: hears of it when it is done, not when it was done before.

    Raises:
        S2PError: another text, step, output or picture than diffusers' (the component and both figures are named); weights that
            cannot be loaded, or too little memory for them; a folder that diffusers itself cannot open.
    """
    if not has_reference(model):
        return
    place = cache_folder("compared") / f"{_key(model)}.json"
    if _known(place):
        return
    model.load()
    with (progress or Silent()).stage("comparing with diffusers", 1) as advance:
        found = compare(model)
        worst = max(found, key=lambda each: each.relative)
        for each in found:
            if not each.is_small:
                raise _refusal(model, each)
        advance(f"largest difference {worst.relative:.0e} ({worst.component})")
    # A cache that cannot be written is no reason to stop.
    with contextlib.suppress(OSError, S2PError), atomic_file(place) as scratch:
        write_contract(scratch, _Compared(differences={each.component: each.relative for each in found}))


def _refusal(model: Model, worst: Difference) -> S2PError:
    own = f" {own_scheduler(model.folder / 'scheduler').name}" if worst.component == "scheduler" else ""
    return S2PError(
        f"the {worst.component}{own} of {model.name} differs from diffusers by {worst.relative:.1e} "
        f"({worst.here} here, {worst.there} there; {worst.allowed:.0e} is allowed)",
        "it would draw another picture: please report the model and its configuration",
    )


def _known(place: Path) -> bool:
    with contextlib.suppress(S2PError):
        read_contract(place, _Compared, _FORMAT, _VERSION)
        return True
    return False


def _key(model: Model) -> str:
    """All that a comparison depends on: the model's files by name, size, time of change and, of small ones, content; versions."""
    identity = {
        "version": _VERSION,
        "versions": [__version__, *(importlib.metadata.version(name) for name in _LIBRARIES)],
        "family": model.family.name,
        "sources": [[said, *_files(path)] for path, said in model.sources],
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def _files(source: Path) -> Iterator[Any]:
    """What tells one state of a file or a folder from another."""
    place = source.resolve()
    yield str(place)
    for name in list_files(place) if place.is_dir() else [""]:
        file = place / name
        if name.partition("/")[0] in _PARTS_ASIDE:
            continue
        told = file.stat()
        small = told.st_size <= _CONTENT_BYTES and file.suffix in (".json", ".txt", ".yaml")
        yield [name, told.st_size, told.st_mtime_ns, sha256_file(file) if small else ""]
