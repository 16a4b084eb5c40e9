"""Public figures of chips, and published times on them, as they lie in the JSON files beside this one."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator

from s2p_runtime.contract import Contract
from s2p_runtime.errors import S2PError

FOLDER = Path(__file__).parent
_TERA, _GIGA = 1e12, 1e9


class Source(Contract):
    """A document."""

    title: str
    address: str


class Chip(Contract):
    """One chip's engine for networks, and the memory that it shares with all else."""

    id: str
    title: str
    devices: tuple[str, ...]
    stated_tops: float | None = Field(
        description="trillion operations a second, as its maker states them; null: nowhere stated"
    )
    fp16_tops: float = Field(gt=0, description="taken for float16")
    int8_tops: float = Field(gt=0, description="taken for int8 by int8")
    bandwidth_gb: float = Field(gt=0, description="of the memory, 10^9 bytes a second")
    int8_doubles: bool = Field(description="whether int8 by int8 is said to be twice as fast as float16")
    sources: tuple[str, ...] = Field(min_length=1)
    remark: str | None

    @property
    def fp16(self) -> float:
        """Operations a second in float16."""
        return self.fp16_tops * _TERA

    @property
    def int8(self) -> float:
        """Operations a second in int8."""
        return self.int8_tops * _TERA

    @property
    def bandwidth(self) -> float:
        """Bytes a second."""
        return self.bandwidth_gb * _GIGA

    def is_called(self, name: str) -> bool:
        """Whether a user's word means this chip or a device with it; case, blanks and dashes do not matter."""
        return _plain(name) in {_plain(each) for each in (self.id, self.title, *self.devices)}


class ChipTable(Contract):
    """All chips."""

    sources: dict[str, Source]
    chips: tuple[Chip, ...]

    @model_validator(mode="after")
    def _sources_exist(self) -> ChipTable:
        for chip in self.chips:
            if missing := set(chip.sources) - set(self.sources):
                raise ValueError(f"{chip.id} names the source {min(missing)}, which is not listed")
        return self

    def cited(self, chip: Chip) -> tuple[str, ...]:
        """A chip's sources in words."""
        return tuple(f"{self.sources[name].title}, {self.sources[name].address}" for name in chip.sources)

    def chosen(self, names: Sequence[str]) -> tuple[Chip, ...]:
        """The chips of devices, each once; all of them where none is named.

        Raises:
            S2PError: a device of which nothing is known.
        """
        found: list[Chip] = []
        for name in names:
            matching = [chip for chip in self.chips if chip.is_called(name)]
            if not matching:
                known = ", ".join(_plain(device) for chip in self.chips for device in chip.devices[:1])
                raise S2PError(f"`device`: no figures of {name!r}", f"name a chip or a device such as {known}", "device")
            found += [chip for chip in matching if chip not in found]
        return tuple(found) or self.chips


class PublishedModel(Contract):
    """What was drawn with."""

    title: str
    operations: int = Field(gt=0, description="of a U-Net call with a batch of two: a multiplication and an addition are two")


class PublishedRow(Contract):
    """One row of the makers' table."""

    device: str
    chip: str
    model: str
    calls_a_second: float = Field(gt=0, description="of the U-Net, a batch of two")
    picture_seconds: float = Field(gt=0, description="from a prompt to a picture")
    reduced_memory: bool = Field(description="programs were loaded one after the other, which the picture's seconds include")


class PublishedTable(Contract):
    """Measured by others."""

    source: str
    models: dict[str, PublishedModel]
    calls: int = Field(description="a picture")
    rows: tuple[PublishedRow, ...]

    def of_chip(self, chip: Chip) -> tuple[PublishedRow, ...]:
        """What was measured on a chip."""
        return tuple(row for row in self.rows if row.chip == chip.id)

    def share(self, row: PublishedRow, chip: Chip) -> float:
        """Of the chip's float16 peak, that a published run reached."""
        return self.models[row.model].operations * row.calls_a_second / chip.fp16


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@functools.cache
def chip_table() -> ChipTable:
    """``chips.json``."""
    return ChipTable.model_validate_json((FOLDER / "chips.json").read_text(encoding="utf-8"))


@functools.cache
def published_table() -> PublishedTable:
    """``published.json``."""
    return PublishedTable.model_validate_json((FOLDER / "published.json").read_text(encoding="utf-8"))
