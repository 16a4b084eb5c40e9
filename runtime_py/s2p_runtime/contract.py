"""What all contracts share: a strict pydantic base and reading a JSON file with one-line errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from s2p_runtime.errors import S2PError


class Contract(BaseModel):
    """Base of every file format: unknown fields are errors, numbers are finite, assignment is validated."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False, frozen=True)


class GrowingContract(Contract):
    """A format that got fields after its first release. Those that say nothing are not written: older readers refuse unknown ones.

    Attributes:
        later_fields: names of these fields; all of them have defaults.
    """

    later_fields: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _as_old_as_possible(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        unused = {name for name in self.later_fields if getattr(self, name) == fields[name].default}
        return {name: item for name, item in handler(self).items() if name not in unused}


ContractT = TypeVar("ContractT", bound=Contract)


def first_problem(error: ValidationError) -> str:
    """The first validation problem as ``field: message``."""
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"]) or "value"
    return f"{field}: {problem['msg']}"


def read_contract(path: Path, kind: type[ContractT], format_name: str, version: int) -> ContractT:
    """Read and validate a JSON contract that carries ``format`` and ``version``.

    Raises:
        S2PError: file missing, not JSON, another format, a version from the future, or an invalid field.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text)
    except FileNotFoundError:
        raise S2PError(f"{path} does not exist", f"is {path.parent} complete?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise S2PError(f"{path} is not readable JSON ({error})", "get it from its author again") from error
    if not isinstance(document, dict) or document.get("format") != format_name:
        raise S2PError(f"{path} is not of format {format_name!r}", "give a folder made by s2p-mobile")
    found = document.get("version")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise S2PError(f"{path} has no valid version number", "get it from its author again")
    if found > version:
        raise S2PError(
            f"{path} has format version {found}, this s2p-mobile reads up to {version}", "update with pip install -U s2p-mobile"
        )
    try:
        # Strict: a number in quotes, or true for 1, is refused by the Swift and C++ readers too.
        return kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise S2PError(f"{path} is invalid ({first_problem(error)})", "get it from its author again") from error


def write_contract(path: Path, value: Contract) -> None:
    """Write a contract as indented JSON with a final newline (doubles keep every bit: shortest round-trip form)."""
    path.write_text(value.model_dump_json(indent=1) + "\n", encoding="utf-8")
