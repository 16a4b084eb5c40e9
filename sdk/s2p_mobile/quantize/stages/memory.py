"""Memory of a method, by what holds it and by what is held at the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Memory:
    """
    Attributes:
        parts: bytes by what they hold.
        moments: names of parts that are there together at some time; those that no moment names are there all the time.
    """

    parts: Mapping[str, int] = field(default_factory=dict)
    moments: Sequence[Sequence[str]] = ()

    @property
    def peak(self) -> int:
        """Bytes at the worst moment."""
        passing = {name for moment in self.moments for name in moment}
        lasting = sum(count for name, count in self.parts.items() if name not in passing)
        return lasting + max((sum(self.parts[name] for name in moment) for moment in self.moments), default=0)

    def with_parts(self, parts: Mapping[str, int], moments: Sequence[Sequence[str]] = ()) -> Memory:
        """The same with more."""
        return Memory({**self.parts, **parts}, (*self.moments, *moments))
