"""Wheels of both distributions, built the way that a release would be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DISTRIBUTIONS = {"s2p-runtime": REPOSITORY / "runtime_py", "s2p-mobile": REPOSITORY}


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name of each distribution -> its wheel, built from its source archive: so neither lacks a file that it needs."""
    made = {}
    for name, project in DISTRIBUTIONS.items():
        folder = tmp_path_factory.mktemp(name)
        subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder], cwd=project, check=True)
        (archive,) = folder.glob("*.tar.gz")
        pip = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-build-isolation",
        ]
        subprocess.run([*pip, "--no-index", "-w", folder, archive], check=True)
        (made[name],) = folder.glob("*.whl")
    return made
