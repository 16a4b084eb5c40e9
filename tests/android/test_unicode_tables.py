"""The C++ tokenizer's character tables are those of the Python tokenizer."""

from __future__ import annotations

import runpy
from pathlib import Path

HARNESS = Path(__file__).resolve().parents[2] / "android_harness"


def test_tables_are_current() -> None:
    generator = runpy.run_path(str(HARNESS / "scripts" / "make_unicode_tables.py"))
    assert generator["tables"]() == (HARNESS / "core" / "src" / "unicode_tables.inc").read_text(encoding="utf-8")
