"""What all contracts share: a strict pydantic base and reading a JSON file with one-line errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_serializer

from s2p_runtime.errors import S2PError


class Contract(BaseModel):
    """Base of every file format: unknown fields are errors, numbers are finite, assignment is validated.

    Every field of a format is always written, and a file that lacks one is refused: what there is not is null or an empty list.
    So no field has a default but ``format`` and ``version``, which :func:`parse_contract` looks at before all others, and
    ``compute_unit`` and ``chips`` of a program, which are absent where it chooses nothing, and the later ones of a
    :class:`SparseContract`.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False, frozen=True)

    @classmethod
    def added_since(cls, version: int) -> Mapping[str, Any]:
        """Fields of the document that a file of an older ``version`` lacks, each with what stands for it."""
        return {}


class SparseContract(Contract):
    """A contract with fields that came later: one whose default is None is absent where there is nothing to tell.

    So files from before such a field stay what they were, and readers from before it take files without it.
    """

    @model_serializer(mode="wrap")
    def _without_nothing(self, fields: Callable[[SparseContract], dict[str, Any]]) -> dict[str, Any]:
        later = {name for name, field in type(self).model_fields.items() if not field.is_required() and field.default is None}
        return {name: value for name, value in fields(self).items() if value is not None or name not in later}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The schema of the fields: the serializer's own would be of any object."""
        return handler({key: value for key, value in core_schema.items() if key != "serialization"})


ContractT = TypeVar("ContractT", bound=Contract)


def first_problem(error: ValidationError) -> str:
    """The first validation problem as ``field: message``."""
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"]) or "value"
    return f"{field}: {problem['msg']}"


def read_contract(path: Path, kind: type[ContractT], format_name: str, version: int) -> ContractT:
    """Read and validate a JSON contract that carries ``format`` and ``version``.

    Raises:
        S2PError: file missing, not JSON, another format, a newer version, or an invalid field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise S2PError(f"{path} does not exist", f"is {path.parent} complete?") from None
    except (OSError, ValueError) as error:
        raise S2PError(f"{path} is not readable JSON ({error})", "get it from its author again") from error
    return parse_contract(text, str(path), kind, format_name, version)


def parse_contract(text: str | bytes, source: str, kind: type[ContractT], format_name: str, version: int) -> ContractT:
    """Validate the text of a JSON contract that carries ``format`` and ``version``.

    Args:
        source: how messages call the file.

    Raises:
        S2PError: not JSON, another format, a newer version, or an invalid field.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise S2PError(f"{source} is not readable JSON ({error})", "get it from its author again") from error
    if not isinstance(document, dict) or document.get("format") != format_name:
        raise S2PError(f"{source} is not of format {format_name!r}", "give one made by s2p-mobile")
    check_version(document.get("version"), source, version)
    try:
        # Strict: a number in quotes, or true for 1, is refused by the Swift and C++ readers too.
        return kind.model_validate_json(_renewed(document, text, source, kind, version), strict=True)
    except ValidationError as error:
        raise S2PError(f"{source} is invalid ({first_problem(error)})", "get it from its author again") from error


def _renewed(document: dict[str, Any], text: str | bytes, source: str, kind: type[Contract], version: int) -> str | bytes:
    """The text of a document of an older version in the form of this one; a newest one's own text."""
    if document["version"] == version:
        return text
    added = kind.added_since(document["version"])
    known = [name for name in added if name in document]
    if known:
        raise S2PError(
            f"{source} is invalid ({known[0]}: unknown in version {document['version']})", "get it from its author again"
        )
    return json.dumps({**document, **added, "version": version})


def check_version(found: object, source: str, version: int) -> None:
    """Refuse a file of a newer version by name, whatever its fields are.

    Args:
        found: its ``version`` as JSON gives it.
        version: the newest one that is read.

    Raises:
        S2PError: a newer version, or no version number.
    """
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise S2PError(f"{source} has no valid version number", "get it from its author again")
    if found > version:
        raise S2PError(
            f"{source} has format version {found}, this s2p-mobile reads {version}", "update with pip install -U s2p-mobile"
        )


def write_contract(path: Path, value: Contract) -> None:
    """Write a contract as indented JSON with a final newline (doubles keep every bit: shortest round-trip form)."""
    path.write_text(value.model_dump_json(indent=1) + "\n", encoding="utf-8")
