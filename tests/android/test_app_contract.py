"""The library and the command-line tool name the core's steps in the core's order, which travels as a number."""

from __future__ import annotations

import re
from pathlib import Path

HARNESS = Path(__file__).resolve().parents[2] / "android_harness"


def _words(file: str, pattern: str) -> list[str]:
    found = re.search(pattern, (HARNESS / file).read_text(encoding="utf-8"))
    assert found is not None, file
    return re.findall(r"\w+", found.group(1).lower())


def test_steps_are_the_cores() -> None:
    steps = _words("core/include/s2p/bench.h", r"enum class Kind \{([^}]*)\}")
    assert "memory_pass" in steps
    assert _words("library/src/main/java/mobile/s2p/bench/Benchmark.kt", r"enum class BenchStep \{([^}]*)\}") == steps
    assert _words("tools/s2p_bench.cpp", r"names\[\] = \{([^}]*)\}") == steps
