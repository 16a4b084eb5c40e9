"""docs/formats.md says what the pydantic models say: every field of every format, in order, with its type."""

from __future__ import annotations

import re
import types
import typing
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from s2p_converters.core.checkpoint_manifest import CheckpointManifest
from s2p_mobile.quantize.latents.manifest import LatentManifest
from s2p_mobile.quantize.sensitivity.result import Sensitivity
from s2p_runtime.archive import ArchiveIndex
from s2p_runtime.bundle import BundleManifest
from s2p_runtime.report import BenchReport

PAGE = (Path(__file__).parents[1] / "docs/formats.md").read_text(encoding="utf-8")
FORMATS: tuple[type[BaseModel], ...] = (
    BundleManifest,
    CheckpointManifest,
    BenchReport,
    ArchiveIndex,
    LatentManifest,
    Sensitivity,
)
ABSENT = {
    "BundleManifest": {"image_starts"},
    "Component": {"compute_unit", "chips"},
    "Timings": {"load_phases"},
    "Memory": {"own_launch"},
    "Validity": {"foreground", "unlocked", "not_throttled"},
    "BenchReport": {"events"},
}
"""Fields that are left out in place of null."""
WORDS: dict[Any, str] = {str: "text", int: "integer", float: "number", bool: "boolean"}


def _parts(annotation: Any) -> list[Any]:
    """An annotation and everything inside of it."""
    return [annotation, *(part for argument in typing.get_args(annotation) for part in _parts(argument))]


def models(roots: typing.Iterable[type[BaseModel]]) -> dict[str, type[BaseModel]]:
    """All models that these are made of, by name."""
    found: dict[str, type[BaseModel]] = {}
    waiting = list(roots)
    while waiting:
        model = waiting.pop()
        found[model.__name__] = model
        for field in model.model_fields.values():
            inner = [part for part in _parts(field.annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
            waiting += [part for part in inner if part.__name__ not in found]
    return found


def in_words(annotation: Any, plural: str = "") -> str:
    """A type as the page's tables write it; ``plural`` is its ending."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return in_words(arguments[0], plural)
    if origin is Literal:
        return in_words(type(arguments[0]), plural)
    if origin in (typing.Union, types.UnionType):
        inner = [in_words(part) for part in arguments if part is not type(None)]
        return " or ".join([*inner, "null"] if type(None) in arguments else inner)
    if origin is dict:
        return f"map{plural} of {in_words(arguments[1], 's')}"
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list{plural} of {in_words(arguments[0], 's')}"
    if origin is tuple and len(arguments) > 2 and len(set(arguments)) == 1:
        return f"{len(arguments)} {in_words(arguments[0], 's')}"
    if origin is tuple:
        return f"[{', '.join(in_words(part) for part in arguments)}]"
    if annotation is Any:
        return "any"
    return f"{WORDS[annotation]}{plural}" if annotation in WORDS else f"`{annotation.__name__}`"


def tables(page: str) -> dict[str, list[list[str]]]:
    """Model -> cells of each row, of the tables under a line that starts with the model's name in bold."""
    found = re.findall(
        r"^\*\*`(\w+)`\*\*.*\n\n\| field \| type \| unit \| meaning \|\n\|[-|]+\|\n((?:\|.*\n)+)", page, re.MULTILINE
    )
    return {name: [[cell.strip() for cell in row.strip("|").split(" | ")] for row in body.splitlines()] for name, body in found}


MODELS = models(FORMATS)
TABLES = tables(PAGE)


def test_there_is_a_table_for_every_model_and_no_other() -> None:
    assert len(MODELS) > 25
    assert set(TABLES) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_the_table_lists_the_fields_with_their_types(name: str) -> None:
    rows = TABLES[name]
    expected = []
    for field, info in MODELS[name].model_fields.items():
        words = in_words(info.annotation)
        expected.append((f"`{field}`", words.replace(" or null", " or absent") if field in ABSENT.get(name, ()) else words))
    assert [(row[0], row[1]) for row in rows] == expected
    assert all(len(row) == 4 and row[3] for row in rows), "every field has a meaning"


@pytest.mark.parametrize("name", MODELS)
def test_the_meaning_names_every_choice(name: str) -> None:
    for row in TABLES[name]:
        annotation = MODELS[name].model_fields[row[0].strip("`")].annotation
        for part in _parts(annotation):
            if typing.get_origin(part) is Literal:
                assert [choice for choice in typing.get_args(part) if f"`{choice}`" not in row[3]] == []


@pytest.mark.parametrize("name", MODELS)
def test_no_field_of_a_format_has_a_default(name: str) -> None:
    """Whoever reads a format needs none; ``format`` and ``version`` are looked at before the others."""
    defaults = {field for field, info in MODELS[name].model_fields.items() if not info.is_required()}
    assert defaults == ABSENT.get(name, set()) | ({"format", "version"} if MODELS[name] in FORMATS else set())


def test_the_page_names_every_version() -> None:
    """Files of older versions stay readable: `s2p-report` is the only one that has any."""
    for model in FORMATS:
        assert model.model_fields["version"].default == (2 if model is BenchReport else 1)
        assert f"`{model.model_fields['format'].default}`" in PAGE
