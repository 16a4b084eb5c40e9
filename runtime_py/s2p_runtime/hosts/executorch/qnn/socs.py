"""Chips with an NPU that programs can be compiled for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from s2p_runtime.errors import S2PError


@dataclass(frozen=True)
class Soc:
    """One chip.

    Attributes:
        name: as Qualcomm numbers it, and Android's ``ro.soc.model`` tells it.
        title: as phones are sold with it.
        model: number in Qualcomm's interfaces.
        arch: version of its NPU.
        vtcm: the NPU's own memory, MiB.
        low_power: version of the chip's second, low-power NPU; None: none that ExecuTorch names.
    """

    name: str
    title: str
    model: int
    arch: int
    vtcm: int
    low_power: int | None = None


SOCS: dict[str, Soc] = {
    soc.name: soc
    for soc in (
        Soc("SM8550", "Snapdragon 8 Gen 2", 43, 73, 8),
        Soc("SM8650", "Snapdragon 8 Gen 3", 57, 75, 8),
        Soc("SM8750", "Snapdragon 8 Elite", 69, 79, 8),
        Soc("SM8850", "Snapdragon 8 Elite Gen 5", 87, 81, 8, 6),
        Soc("SM8845", "Snapdragon 8 Gen 5", 97, 81, 8),
    )
}
"""By name. Older NPUs do not compute in float16. Numbers: ExecuTorch's ``qc_schema.py``."""


def soc_named(name: str) -> Soc:
    """A chip by name.

    Raises:
        S2PError: an unknown one; lists those that there are.
    """
    if name not in SOCS:
        raise S2PError(f"unknown SoC {name!r}", f"there are {listing(SOCS.values())}", "soc")
    return SOCS[name]


def listing(socs: Iterable[Soc]) -> str:
    """Names and titles in a line."""
    return ", ".join(f"{soc.name} ({soc.title})" for soc in socs)
