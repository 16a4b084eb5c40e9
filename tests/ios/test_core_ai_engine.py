"""Core AI's declarations for type checks say where Apple documents them."""

from __future__ import annotations

import re
from pathlib import Path

HARNESS = Path(__file__).parents[2] / "ios_harness"


def test_every_stub_names_apples_page() -> None:
    text = (HARNESS / "AppleStubs" / "CoreAI.swift").read_text(encoding="utf-8")
    kinds = re.findall(r"^public (?:struct|enum|final class) (\w+)", text, re.MULTILINE)
    pages = re.findall(r"https://developer\.apple\.com/documentation/coreai/(\w+)$", text, re.MULTILINE)
    assert kinds and [kind.lower() for kind in kinds] == pages
