"""The list of quick tests: it names what is there, leaves no room of the house out, and nothing in it converts a model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LIST = REPOSITORY / "tests" / "fast.txt"
IGNORE, DESELECT = "--ignore=", "--deselect="
ROOMS = {
    "s2p_runtime": REPOSITORY / "runtime_py" / "s2p_runtime",
    "s2p_converters": REPOSITORY / "converters" / "s2p_converters",
    "s2p_mobile": REPOSITORY / "sdk" / "s2p_mobile",
}
"""Package -> its folder; the packages in the last two are the rooms."""
SLOW = re.compile(
    r"\b(coreml_bundle|coreai_bundle|executorch_bundle|convert_checkpoint|convert\(checkpoint|Conversion|import executorch"
    r"|import coremltools)\b"
)
"""What converts, or loads a converter: tens of seconds."""


def entries() -> list[str]:
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def place(line: str) -> Path:
    """The file or folder that an entry is about."""
    return REPOSITORY / line.removeprefix(IGNORE).removeprefix(DESELECT).partition("::")[0]


def files() -> list[Path]:
    """Test files that the list comes to."""
    ignored = {place(line) for line in entries() if line.startswith(IGNORE)}
    named = [place(line) for line in entries() if not line.startswith("--")]
    found = [file for path in named for file in (path.rglob("test_*.py") if path.is_dir() else [path])]
    return [file for file in found if file not in ignored]


def rooms() -> list[str]:
    inner = [
        f"{package}.{folder.name}"
        for package in ("s2p_converters", "s2p_mobile")
        for folder in sorted(ROOMS[package].iterdir())
        if (folder / "__init__.py").is_file()
    ]
    return ["s2p_runtime", *inner]


def test_it_names_what_is_there_and_once() -> None:
    assert [line for line in entries() if not place(line).exists()] == []
    found = files()
    assert found and len(found) == len(set(found))


@pytest.mark.parametrize("room", rooms())
def test_every_room_has_quick_tests(room: str) -> None:
    # What the room api offers is the package itself.
    use = re.compile(rf"^\s*(from|import) {re.escape(room.removesuffix('.api'))}\b", re.MULTILINE)
    assert any(use.search(file.read_text(encoding="utf-8")) for file in files())


def test_nothing_quick_converts() -> None:
    slow = {file.name for file in files() if file != Path(__file__) and SLOW.search(file.read_text(encoding="utf-8"))}
    assert slow == set()
