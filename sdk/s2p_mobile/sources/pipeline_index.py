"""``model_index.json`` of a diffusers folder: which family it is of, and whether what it names can be used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s2p_converters.core.json_object import MAX_CONFIG_BYTES, MAX_WORDS_BYTES
from s2p_mobile.sources.families import Family, families_in_order, recognise, refuse_folder, refuse_pipeline
from s2p_mobile.sources.modules import read_json
from s2p_mobile.sources.origin import title
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import

with quiet_import():
    import diffusers

INDEX_NAME = "model_index.json"
GIVE_MODEL = "give a diffusers folder or a single file, or none for the built-in model"
_LIBRARIES = ("diffusers", "transformers")
_PIPELINES = Path(diffusers.__file__).parent / "pipelines"
_CONFIGURATIONS = ("config.json", "tokenizer_config.json", "scheduler_config.json")


def read_index(folder: Path) -> dict[str, Any]:
    """Content of ``model_index.json``.

    Raises:
        S2PError: no folder of a pipeline that an installed family knows, or one that wants code of its own to be run.
    """
    if not folder.exists():
        raise S2PError(f"model folder {folder} does not exist", GIVE_MODEL)
    if not folder.is_dir() or not any(folder.iterdir()):
        what = "is empty" if folder.is_dir() else "is not a folder"
        raise S2PError(f"model folder {folder} {what}", GIVE_MODEL)
    if not (folder / INDEX_NAME).is_file():
        raise refuse_folder(folder, read_json(folder / "config.json") if (folder / "config.json").is_file() else {})
    index = read_json(folder / INDEX_NAME)
    _refuse_code(folder, index)
    refuse_pipeline(folder, index)
    return index


def _refuse_code(folder: Path, index: Mapping[str, Any]) -> None:
    """Refuse whatever diffusers or transformers would load only with ``trust_remote_code``, which is never set here."""

    def refuse(what: str) -> None:
        raise S2PError(f"{title(folder)} wants code of its own to be run ({what})", "give a model of diffusers' own classes")

    for name, entry in index.items():
        if not isinstance(entry, list):
            continue
        library, kind = (*entry, None, None)[:2]
        if name == "_class_name":
            refuse(f"pipeline {library}.{kind}")
        known = library is None or library in _LIBRARIES or (_PIPELINES / str(library)).is_dir()
        if not name.startswith("_") and (not known or (folder / name / f"{library}.py").is_file()):
            refuse(f"{name} {library}.{kind}")
    for name in _CONFIGURATIONS:
        for file in sorted(folder.glob(f"*/{name}")):
            # Learned words are in a tokenizer's.
            if read_json(file, MAX_WORDS_BYTES if name.startswith("tokenizer") else MAX_CONFIG_BYTES).get("auto_map"):
                refuse(f"auto_map in {file.relative_to(folder)}")


def family_of(folder: Path, index: Mapping[str, Any]) -> Family:
    """The family of a pipeline's folder.

    Raises:
        S2PError: a component missing or of a class that the family does not use, an unknown family, or one that is not of the
            pipeline.
    """
    pipeline = str(index["_class_name"])
    candidates = [family for family in families_in_order() if pipeline in family.pipelines]
    shared = [part for part in candidates[0].components if all(part in others.components for others in candidates)]
    _require_folders(folder, shared)
    for part in shared:
        _require_class(folder, index, part, {kind for family in candidates for kind in family.classes(part)})
    described = [part for part in shared if not part.startswith(("tokenizer", "scheduler"))]
    family = recognise(title(folder), {part: read_json(folder / part / "config.json") for part in described})
    if pipeline not in family.pipelines:
        raise S2PError(
            f"{title(folder)} says {pipeline} but its U-Net is one of {family.name}",
            "correct model_index.json or get the model again",
        )
    _require_folders(folder, family.components)
    for part in family.components:
        _require_class(folder, index, part, set(family.classes(part)))
    return family


def _require_folders(folder: Path, parts: Sequence[str]) -> None:
    for part in parts:
        if not (folder / part).is_dir():
            raise S2PError(f"{title(folder)} lacks {part}/", "export the model again with diffusers")


def _require_class(folder: Path, index: Mapping[str, Any], part: str, known: set[str]) -> None:
    """Demand that a component is of a known class: what the index names, where it names one, and not what the component says."""
    entry = index.get(part)
    found = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if entry is not None and found is None:
        raise S2PError(f"model_index.json of {title(folder)} names no {part}", "get the whole model")
    if known and found is not None and found not in known:
        words = " or ".join(sorted(known))
        raise S2PError(
            f"{part}/ of {title(folder)} is of the class {found}, which is not supported",
            f"save the model with {words} in its place",
        )


def complete_index(folder: Path) -> None:
    """Name every component of a folder that was written here, as ``save_pretrained`` of diffusers does: then diffusers opens it."""
    index = read_json(folder / INDEX_NAME)
    family = family_of(folder, index)
    for part in family.components:
        library = "transformers" if part.startswith(("text", "tokenizer")) else "diffusers"
        kinds = family.classes(part) or (read_json(folder / part / "scheduler_config.json")["_class_name"],)
        index.setdefault(part, [library, kinds[0]])
    (folder / INDEX_NAME).write_text(json.dumps(index), encoding="utf-8")
