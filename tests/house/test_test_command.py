"""The test command says what it leaves out, and why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TOOLS = ("bash", "sh", "env", "dirname", "mktemp", "rm", "cat", "nproc", "id", "grep", "true")
STAND_INS = {
    "scripts/packages.sh": "need() { :; }\n",
    "scripts/setup.sh": "",
    ".venv/bin/ruff": "",
    ".venv/bin/mypy": "",
    ".venv/bin/python": "echo Python was tested\n",
    "android_harness/scripts/test.sh": "echo C++ was tested\n",
    "ios_harness/here": "",
}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


@pytest.mark.parametrize("has_swift", [True, False])
def test_a_missing_swift_is_told(tmp_path: Path, has_swift: bool) -> None:
    """The script itself, with stand-ins for what it starts and no programs but those that it needs."""
    for name, text in STAND_INS.items():
        write(tmp_path / name, text)
    shutil.copy(REPOSITORY / "scripts/test.sh", tmp_path / "scripts/test.sh")
    programs = tmp_path / "programs"
    programs.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (programs / tool).symlink_to(found)
    if has_swift:
        write(programs / "swift", 'echo "swift $*"\n')
    done = subprocess.run(
        [tmp_path / "scripts/test.sh"], env={"PATH": str(programs)}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    lines = set(done.stdout.splitlines())
    assert {"Python was tested", "C++ was tested"} <= lines
    assert ("skipped: swift test, as swift is not installed" in lines) is not has_swift
    assert ("swift test --quiet" in lines) is has_swift


def test_pytest_tells_why_a_test_was_skipped(tmp_path: Path) -> None:
    lines = ["import pytest", "def test_a(): pytest.skip('no such tool')", "def test_b(): assert False"]
    (tmp_path / "test_it.py").write_text("\n".join(lines))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        REPOSITORY / "pyproject.toml",
        "--rootdir",
        tmp_path,
        "-p",
        "no:cacheprovider",
    ]
    # Arguments for the tests around this one are not for those in it.
    plain = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        [*command, tmp_path / "test_it.py"], env=plain, capture_output=True, text=True, check=False, timeout=120
    )
    assert "1 failed, 1 skipped" in done.stdout
    assert "SKIPPED [1] " in done.stdout and "no such tool" in done.stdout and "FAILED " in done.stdout
