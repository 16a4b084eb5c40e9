"""Memory of a stage at its worst moment, by what holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Memory:
    """
    Attributes:
        device: bytes where the networks run, by what they hold.
        host: bytes of the machine's memory beside it. On a device without a memory of its own both are the same memory.
    """

    device: Mapping[str, int] = field(default_factory=dict)
    host: Mapping[str, int] = field(default_factory=dict)

    @property
    def on_device(self) -> int:
        """Bytes of :attr:`device`."""
        return sum(self.device.values())

    @property
    def on_host(self) -> int:
        """Bytes of :attr:`host`."""
        return sum(self.host.values())

    @property
    def together(self) -> dict[str, int]:
        """Both by name."""
        found = dict(self.host)
        for name, count in self.device.items():
            found[name] = found.get(name, 0) + count
        return {name: count for name, count in found.items() if count}
