"""Reading and writing JSON contracts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from s2p_runtime.contract import Contract, read_contract, write_contract
from s2p_runtime.errors import CheckFailed, S2PError


class Part(Contract):
    value: float
    count: int | None = Field(ge=0)


class Example(Contract):
    format: Literal["example"] = "example"
    version: Literal[1] = 1
    name: str
    parts: tuple[Part, ...]
    pairs: tuple[tuple[int, float], ...]


PART: dict[str, Any] = {"value": 1.5, "count": None}
GOOD: dict[str, Any] = {"format": "example", "version": 1, "name": "x", "parts": [PART], "pairs": [[1, 2]]}


def read(path: Path) -> Example:
    return read_contract(path, Example, "example", 1)


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    values = (0.1, 1 / 3, math.pi * 1e-300, 5e-324, 1.7976931348623157e308, -0.0, 2.0**53 + 2)
    example = Example(name='quote " and \u732b', parts=tuple(Part(value=v, count=None) for v in values), pairs=())
    path = tmp_path / "x.json"
    write_contract(path, example)
    assert path.read_bytes().endswith(b"}\n")
    assert [part.value.hex() for part in read(path).parts] == [v.hex() for v in values]
    # Another JSON reader sees the same doubles.
    assert [part["value"].hex() for part in json.loads(path.read_text())["parts"]] == [v.hex() for v in values]


def test_whole_numbers_for_floats(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**GOOD, "parts": [{**PART, "value": 3}]}))
    found = read(path)
    assert found.parts[0].value == 3.0 and found.pairs == ((1, 2.0),)


def test_every_field_is_written(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_contract(path, Example.model_validate(GOOD))
    assert json.loads(path.read_text()) == GOOD


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not readable JSON"),
        (b"{", "not readable JSON"),
        (b"\xff", "not readable JSON"),
        (b"[" * 100_000, "not readable JSON"),
        (b'{"format": "example", "version": ' + b"9" * 5000 + b"}", "not readable JSON"),
        (b"[]", "not of format 'example'"),
        (b"null", "not of format 'example'"),
        (json.dumps({**GOOD, "format": "other"}).encode(), "not of format 'example'"),
        (json.dumps({**GOOD, "version": 2}).encode(), "has format version 2, this s2p-mobile reads 1; update with pip"),
        (json.dumps({"format": "example", "version": 3, "name": 5, "other": {}}).encode(), "has format version 3"),
        (json.dumps({**GOOD, "version": 0}).encode(), "no valid version"),
        (json.dumps({**GOOD, "version": True}).encode(), "no valid version"),
        (json.dumps({**GOOD, "version": "1"}).encode(), "no valid version"),
        (json.dumps({**GOOD, "version": 1.0}).encode(), "no valid version"),
        (json.dumps({**GOOD, "version": None}).encode(), "no valid version"),
        (json.dumps({**GOOD, "version": [1]}).encode(), "no valid version"),
        (json.dumps({"format": "example"}).encode(), "no valid version"),
        (json.dumps({**GOOD, "extra": 1}).encode(), "extra: "),
        (json.dumps({**GOOD, "parts": [{**PART, "other": 2}]}).encode(), "parts.0.other: "),
        (json.dumps({**GOOD, "parts": [{**PART, "value": math.nan}]}).encode(), "parts.0.value: "),
        (json.dumps({**GOOD, "parts": [{**PART, "value": -math.inf}]}).encode(), "parts.0.value: "),
        (b'{"format": "example", "version": 1, "name": "x", "parts": [], "pairs": [[1, 1e999]]}', "pairs.0.1: "),
        (json.dumps({**GOOD, "pairs": [[0, math.nan]]}).encode(), "pairs.0.1: "),
        (json.dumps({**GOOD, "parts": [{**PART, "value": "1.5"}]}).encode(), "parts.0.value: "),
        (json.dumps({**GOOD, "parts": [{**PART, "value": True}]}).encode(), "parts.0.value: "),
        (json.dumps({**GOOD, "pairs": [[1.0, 2]]}).encode(), "pairs.0.0: "),
        (json.dumps({**GOOD, "name": 5}).encode(), "name: "),
        (json.dumps({"format": "example", "version": 1}).encode(), "name: "),
        (json.dumps({**GOOD, "parts": [{"value": 1.5}]}).encode(), "parts.0.count: Field required"),
        (json.dumps({**GOOD, "parts": None}).encode(), "parts: "),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(S2PError) as caught:
        read(path)
    text = str(caught.value)
    assert message in text and text.startswith(str(path)) and "; " in text and "\n" not in text


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(S2PError, match="does not exist"):
        read(tmp_path / "none.json")
    with pytest.raises(S2PError, match="not readable"):
        read(tmp_path)


def test_contracts_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Example(name="x", parts=(), pairs=()).name = "y"  # type: ignore[misc]


def test_exit_statuses() -> None:
    assert (S2PError.exit_status, CheckFailed.exit_status) == (2, 1)
    assert issubclass(CheckFailed, S2PError)
