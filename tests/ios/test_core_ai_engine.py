"""The Swift engine for Core AI fits Apple's signatures, as far as the stubs have them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

HARNESS = Path(__file__).parents[2] / "ios_harness"


def test_every_stub_names_apples_page() -> None:
    text = (HARNESS / "Stubs" / "CoreAI" / "CoreAI.swift").read_text(encoding="utf-8")
    kinds = re.findall(r"^public (?:struct|enum|final class) (\w+)", text, re.MULTILINE)
    pages = re.findall(r"https://developer\.apple\.com/documentation/coreai/(\w+)$", text, re.MULTILINE)
    assert kinds and [kind.lower() for kind in kinds] == pages


@pytest.mark.skipif(shutil.which("swiftc") is None, reason="there is no Swift compiler")
def test_the_engine_type_checks() -> None:
    done = subprocess.run([HARNESS / "scripts" / "typecheck_coreai.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
