"""The sources that need Apple's SDK are type-checked against declarations of its interfaces, and mistakes in them are found."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ios_harness"
CHECK = PACKAGE / "AppleStubs/check.sh"

pytestmark = pytest.mark.skipif(shutil.which("swiftc") is None, reason="swift is not installed")


def check(package: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CHECK, package], capture_output=True, text=True, timeout=600)


def test_core_ml_backend_and_app_fit_the_interfaces() -> None:
    done = check(PACKAGE)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "warning:" not in done.stderr


@pytest.mark.parametrize(
    ("file", "right", "wrong", "found"),
    [
        ("Sources/S2PBenchCoreML/CoreMLProgram.swift", ".cpuAndNeuralEngine", ".neuralEngineAndCPU", "no member"),
        ("App/Sources/BenchScreen.swift", "{ await model.refresh() }", "{ model.refresh() }", "not marked with 'await'"),
        (
            "App/Sources/BenchModel.swift",
            "bundles(in: .documentsDirectory)",
            "bundles(at: .documentsDirectory)",
            "argument label",
        ),
    ],
)
def test_a_mistake_is_found(tmp_path: Path, file: str, right: str, wrong: str, found: str) -> None:
    package = Path(shutil.copytree(PACKAGE, tmp_path / "harness", ignore=shutil.ignore_patterns(".build", "build")))
    text = (package / file).read_text()
    assert right in text
    (package / file).write_text(text.replace(right, wrong, 1))
    done = check(package)
    assert done.returncode != 0 and found in done.stderr
