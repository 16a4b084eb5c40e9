"""The list of quick tests names what is there, each once, and leaves out what builds, installs or trains."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SLOW = ("tests/android", "tests/ios", "tests/packaging", "tests/sdk/training", "tests/sdk/baselines")


def test_every_line_is_a_path_with_tests() -> None:
    lines = [line for line in (REPOSITORY / "tests" / "fast.txt").read_text("utf-8").splitlines() if not line.startswith("#")]
    assert len(lines) == len(set(lines)) > 10
    for line in lines:
        path = REPOSITORY / line
        found = [path] if path.is_file() else list(path.rglob("test_*.py"))
        assert found and all(file.name.startswith("test_") for file in found), line
        assert not line.startswith(SLOW), line
