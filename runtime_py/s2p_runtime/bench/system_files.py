"""The kernel's small text files below a root that tests can replace."""

from __future__ import annotations

import math
from pathlib import Path


class SystemFiles:
    """Reads files of /proc and /sys; what is absent, empty or unreadable is None."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def text(self, path: str) -> str | None:
        """Content without white space and NULs at its end."""
        try:
            content = (self.root / path).read_bytes()
        except OSError:
            return None
        return content.decode("utf-8", "replace").rstrip("\0 \t\r\n") or None

    def number(self, path: str) -> float | None:
        """A finite number."""
        try:
            value = float(self.text(path) or "nan")
        except ValueError:
            return None
        return value if math.isfinite(value) else None

    def kilobytes(self, path: str, key: str) -> int | None:
        """A line ``key: 123 kB`` of a file, in bytes."""
        for line in (self.text(path) or "").splitlines():
            name, _, value = line.partition(":")
            parts = value.split()
            if name == key and len(parts) == 2 and parts[0].isdigit() and parts[1] == "kB":
                return int(parts[0]) * 1024
        return None

    def names(self, folder: str, prefix: str = "") -> list[str]:
        """Names in a folder that start with ``prefix``; zone10 comes after zone9."""
        try:
            found = [path.name for path in (self.root / folder).iterdir() if path.name.startswith(prefix)]
        except OSError:
            return []
        return sorted(found, key=lambda name: (len(name), name))
