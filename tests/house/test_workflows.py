"""Workflow files of others' machines: what cannot be run here is at least of the right form, and names scripts that exist."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.y*ml"))


def _document(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_there_are_workflows() -> None:
    assert {"test.yml", "android.yml", "ios.yml"} <= {path.name for path in WORKFLOWS}


def _lint(*paths: Path) -> subprocess.CompletedProcess[str]:
    """actionlint where it is installed, else GitHub's schema as check-jsonschema brings it along.

    The package of actionlint is no dependency of the tests: installing it downloads a program, which not every network allows.
    """
    if shutil.which("actionlint"):
        return subprocess.run(["actionlint", "-no-color", *paths], capture_output=True, text=True, check=False)
    if importlib.util.find_spec("check_jsonschema") is None:
        pytest.skip("neither actionlint nor check-jsonschema is installed")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_linter_finds_nothing() -> None:
    done = _lint(*WORKFLOWS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_finds_a_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(WORKFLOWS[0].read_text().replace("runs-on:", "run-on:", 1))
    assert _lint(wrong).returncode != 0


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_steps_name_what_exists(path: Path) -> None:
    """Scripts of this repository, folders to work in, and other people's actions at a version."""
    for job in _document(path)["jobs"].values():
        assert "timeout-minutes" in job
        for step in job["steps"]:
            folder = REPOSITORY / step.get("working-directory", ".")
            assert folder.is_dir()
            for script in re.findall(r"(?:^|\s)(scripts/[\w/.-]+|\./[\w/.-]+)", step.get("run", "")):
                assert (folder / script).exists(), script
            assert re.fullmatch(r"[\w.-]+(/[\w.-]+)+@v\d+[\w.]*", step.get("uses", "a/b@v1"))


def test_changes_of_all_that_is_built_start_a_build() -> None:
    """The package of the library is at the root, too; a file that a job reads is among those whose changes start it."""
    read = {"ios.yml": {"Package.swift", "ios_harness/Package.swift", "examples/ios/project.yml"}}
    read["android.yml"] = {"android_harness/settings.gradle.kts", "examples/android/settings.gradle.kts"}
    for name, files in read.items():
        path = REPOSITORY / ".github/workflows" / name
        events = _document(path)[True]  # YAML takes the word "on" for yes.
        for event in ("push", "pull_request"):
            patterns = [pattern.removesuffix("**") for pattern in events[event]["paths"]]
            for file in {*files, f".github/workflows/{name}"}:
                assert (REPOSITORY / file).exists()
                assert any(file == pattern or (pattern.endswith("/") and file.startswith(pattern)) for pattern in patterns), (
                    file
                )


def test_android_is_built_with_the_versions_of_the_build_files() -> None:
    document = (REPOSITORY / ".github/workflows/android.yml").read_text()
    (ndk,) = re.findall(r"NDK: ([\d.]+)", document)
    assert f'ndkVersion = "{ndk}"' in (REPOSITORY / "android_harness/library/build.gradle.kts").read_text()
    (gradle,) = re.findall(r'gradle-version: "([\d.]+)"', document)
    for project in ("android_harness", "examples/android"):
        assert f"gradle-{gradle}-bin.zip" in (REPOSITORY / project / "gradle/wrapper/gradle-wrapper.properties").read_text()
