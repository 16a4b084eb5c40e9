"""Makes the toolchain's own interface of a module of Linux one of iOS 17.

usage: retarget.py IN.swiftinterface OUT.swiftinterface

The target is exchanged: `os(iOS)` and availability become real. What is deployed back needs a body where it stands: a declaration
that shows none loses the attribute, the others are emitted into their callers. Nothing of Linux's C library is imported.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

LINUX, IOS = "-target x86_64-unknown-linux-gnu", "-target x86_64-apple-ios17.0-simulator"
_BACK = re.compile(r"@backDeployed\(before:[^)]*\)")
_DECLARES = re.compile(r"\b(func|init|var|subscript)\b")


def retargeted(text: str) -> str:
    """The text of an interface for iOS 17."""
    lines = [line for line in text.replace(LINUX, IOS).split("\n") if line != "import Glibc"]
    for number, line in enumerate(lines):
        if _BACK.search(line):
            declared = number if _DECLARES.search(_BACK.sub("", line)) else number + 1
            while not _DECLARES.search(lines[declared]):
                declared += 1
            has_body = lines[declared].rstrip().endswith("{")
            lines[number] = _BACK.sub("@_alwaysEmitIntoClient" if has_body else "", line)
    return "\n".join(lines)


if __name__ == "__main__":
    source, target = sys.argv[1:]
    Path(target).write_text(retargeted(Path(source).read_text(encoding="utf-8")), encoding="utf-8")
