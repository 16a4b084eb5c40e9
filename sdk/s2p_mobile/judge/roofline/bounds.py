"""How long a call takes at least on a chip, by its public figures: the roofline model of Williams, Waterman and Patterson (2009).

Time is at least operations over the peak, and at least bytes over the bandwidth. Nothing here was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from s2p_mobile.judge.roofline.tables import Chip, PublishedRow, chip_table, published_table
from s2p_runtime.contract import Contract
from s2p_runtime.workload import Workload


class Published(Contract):
    """What others measured on the chip."""

    device: str
    model: str
    call_seconds: float = Field(description="of a U-Net call, a batch of two")
    picture_seconds: float
    calls: int = Field(description="a picture")
    peak_share: float = Field(description="of the chip's float16 peak")


class ChipBounds(Contract):
    """One chip. Seconds are computed, not measured."""

    chip: str
    devices: tuple[str, ...]
    stated_tops: float | None
    fp16_tops: float
    int8_tops: float
    bandwidth_gb: float
    int8_doubles: bool
    remark: str | None
    sources: tuple[str, ...]
    fp16_seconds: float = Field(description="of a U-Net call's operations, all at the float16 peak")
    compute_seconds: float = Field(description="the same with those on integers at the int8 peak")
    weight_seconds: float = Field(description="of a U-Net call's weights at the memory's bandwidth")
    memory_seconds: float = Field(description="of its weights and of its layers' activations, if these go through memory")
    bound: Literal["compute", "memory"] = Field(description="whether computing or that memory time is longer")
    call_seconds: float = Field(description="of computing and weights, the longer one: a U-Net call takes at least so long")
    picture_seconds: float = Field(description="the same of all calls of all programs that were counted")
    likely_call_seconds: float | None = Field(
        description="of a U-Net call that reaches the share of the float16 peak that Apple's own run of a model of the nearest size "
        "reached on this chip"
    )
    published: tuple[Published, ...]


class Roofline(Contract):
    """Bounds of one source on several chips."""

    source: str
    note: str
    workloads: tuple[Workload, ...]
    chips: tuple[ChipBounds, ...]
    published_source: str


NOTE = "computed from public figures, not measured"


def make_roofline(source: str, workloads: Sequence[Workload], devices: Sequence[str] = ()) -> Roofline:
    """Hold what calls take against what chips do.

    Args:
        source: what is looked at, for people.
        workloads: of its programs.
        devices: chips or devices by name; all that are known when empty.

    Raises:
        S2PError: an unknown device.
    """
    chips = chip_table().chosen(devices)
    return Roofline(
        source=source,
        note=NOTE,
        workloads=tuple(workloads),
        chips=tuple(_bounds(chip, workloads) for chip in chips),
        published_source=published_table().source,
    )


def _bounds(chip: Chip, workloads: Sequence[Workload]) -> ChipBounds:
    unet = [each for each in workloads if each.unet]
    compute, memory = sum(_compute(chip, each) for each in unet), sum(_memory(chip, each) for each in unet)
    fp16 = sum(each.operations for each in unet) / chip.fp16
    rows = published_table().of_chip(chip)
    shares = [published_table().share(row, chip) for row in rows]
    nearest = _nearest_share(rows, shares, sum(each.operations for each in unet))
    return ChipBounds(
        chip=chip.title,
        devices=chip.devices,
        stated_tops=chip.stated_tops,
        fp16_tops=chip.fp16_tops,
        int8_tops=chip.int8_tops,
        bandwidth_gb=chip.bandwidth_gb,
        int8_doubles=chip.int8_doubles,
        remark=chip.remark,
        sources=chip_table().cited(chip),
        fp16_seconds=fp16,
        compute_seconds=compute,
        weight_seconds=sum(each.weight_bytes for each in unet) / chip.bandwidth,
        memory_seconds=memory,
        bound="compute" if compute >= memory else "memory",
        call_seconds=sum(_seconds(chip, each) for each in unet),
        picture_seconds=sum(each.runs * _seconds(chip, each) for each in workloads),
        likely_call_seconds=None if nearest is None else max(fp16 / nearest, memory),
        published=tuple(_published(row, share) for row, share in zip(rows, shares, strict=True)),
    )


def _nearest_share(rows: Sequence[PublishedRow], shares: Sequence[float], operations: int) -> float | None:
    """The best share among published runs of the model whose calls are most like these in size."""
    if not rows or not operations:
        return None
    models = published_table().models
    away = [abs(math.log(models[row.model].operations / operations)) for row in rows]
    return max(share for share, distance in zip(shares, away, strict=True) if distance == min(away))


def _compute(chip: Chip, work: Workload) -> float:
    integers = work.integer_operations + work.palette_operations
    return integers / chip.int8 + work.float_operations / chip.fp16


def _memory(chip: Chip, work: Workload) -> float:
    return (work.weight_bytes + work.activation_bytes) / chip.bandwidth


def _seconds(chip: Chip, work: Workload) -> float:
    return max(_compute(chip, work), work.weight_bytes / chip.bandwidth)


def _published(row: PublishedRow, share: float) -> Published:
    table = published_table()
    return Published(
        device=row.device,
        model=table.models[row.model].title,
        call_seconds=1 / row.calls_a_second,
        picture_seconds=row.picture_seconds,
        calls=table.calls,
        peak_share=share,
    )
