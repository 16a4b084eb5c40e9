"""Memory and disk foreseen before work starts, and the sizes in safetensors headers that the estimates come from."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

from s2p_runtime.errors import S2PError

_FLOAT32 = 4
_LIBRARIES = 512 << 20
"""torch, diffusers and transformers, before a weight is loaded (measured: benchmarks/full_size.py)."""


def parameter_count(folder: Path) -> int:
    """Numbers in a folder's ``.safetensors`` files, from their headers alone (no weight is read); damaged files count 0."""
    total = 0
    for path in folder.glob("*.safetensors"):
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(length, 100_000_000)))
            total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue  # loading names what is wrong with it
    return total


def parameter_bytes(folder: Path, components: tuple[str, ...]) -> int:
    """Memory of a model's components in float32."""
    return _FLOAT32 * sum(parameter_count(folder / name) for name in components)


def load_bytes(folder: Path, components: tuple[str, ...]) -> int:
    """Memory of a model while it is rounded: all components in float32, a byte for each weight of the U-Net, the libraries.

    Pages of weight files are not counted, although the system shows them as the process's: it takes them back when it needs them.
    """
    counts = {name: parameter_count(folder / name) for name in components}
    return _FLOAT32 * sum(counts.values()) + counts.get("unet", 0) + _LIBRARIES


def checkpoint_bytes(folder: Path, copied: tuple[str, ...]) -> int:
    """Disk that a checkpoint takes at most: the copied components, and a byte for each weight of the U-Net."""
    files = [path for name in copied for path in (folder / name).rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files) + parameter_count(folder / "unet")


def available_memory() -> int | None:
    """Bytes that a process can take without swapping; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def require_memory(needed: int, what: str) -> None:
    """Raise :class:`S2PError` when ``needed`` bytes are not available."""
    free = available_memory()
    if free is not None and needed > free:
        raise S2PError(
            f"{what} needs about {_gib(needed)} of memory and {_gib(free)} are free",
            "close other programs or use a larger machine",
        )


def require_disk(folder: Path, needed: int, what: str, remedy: str) -> None:
    """Raise :class:`S2PError` when the disk of ``folder`` (or of its nearest parent that exists) has less than ``needed`` bytes."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise S2PError(f"{what} needs about {_gib(needed)} of disk and {_gib(free)} are free in {place}", f"{remedy}")


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
